"""The eager network's answers on held-out rows: the reference that every exported variant is compared with."""

from __future__ import annotations

import numpy as np
import torch

from finetune.network import Network
from fmx.data.rows import Rows
from fmx.progress import progress
from fmx.statistics import softmax


@torch.inference_mode()
def eager_logits(network: Network, rows: Rows, device: torch.device, batch_size: int = 64) -> np.ndarray:
    """Give the network's logits for every row, in full precision: float32 [n, classes]."""
    network.eval()
    logits = []
    with progress("evaluating", len(rows)) as advance:
        for start in range(0, len(rows), batch_size):
            batch = torch.from_numpy(rows.images[start : start + batch_size]).to(device)
            logits.append(network(batch).float().cpu().numpy())
            advance(len(batch))
    return np.concatenate(logits)


def eager_probabilities(network: Network, rows: Rows, device: torch.device) -> np.ndarray:
    """Give the network's probabilities for every row: float64 [n, classes]."""
    return softmax(eager_logits(network, rows, device))
