"""Features of a frozen network: the input of its head, computed once and kept on disk by content.

The key is the rows' fingerprint with the hash of base weights and preprocessing, so a changed image, weight or size is another file.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from finetune.network import Network
from finetune.speed import autocast
from fmx import storage
from fmx.data.rows import Rows
from fmx.errors import disk_errors
from fmx.progress import progress

BATCH = 64


def cached_features(
    network: Network,
    rows: Rows,
    key: str,
    device: torch.device,
    what: str,
    normalise: Callable[[Tensor], Tensor] | None = None,
    precision: str = "fp32",
) -> Tensor:
    """Give the head's input for every row, from disk where it is known: float32 [n, d], or [n, d, h, w] for a convolutional head.

    Args:
        network: frozen.
        rows: their fingerprint and `key` name the file.
        key: of base weights, preprocessing and whatever `normalise` changes.
        device: where the network lives.
        what: for the progress bar.
        normalise: from rows uint8 [b, h, w, 3] to the body's input; default the network's own.
        precision: of the pass.
    """
    name = storage.sha256_bytes(f"{key} {precision} {rows.fingerprint.sha256} {rows.fingerprint.rows}".encode())
    path = storage.cache_home() / "features" / f"{name}.npy"
    if path.is_file():
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except (ValueError, OSError, EOFError):  # damaged: computed again
            path.unlink(missing_ok=True)
    features = compute_features(network, rows, device, what, normalise or _own(network, device), precision)
    with disk_errors("caching features"):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{name}.{os.getpid()}.npy")
        try:
            np.save(partial, features.numpy(), allow_pickle=False)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return features


def _own(network: Network, device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda rows: network.prepare(rows.to(device, non_blocking=True))


def compute_features(
    network: Network, rows: Rows, device: torch.device, what: str, normalise: Callable[[Tensor], Tensor], precision: str = "fp32"
) -> Tensor:
    """Run the frozen network over the rows and keep what its head is given."""
    caught: list[Tensor] = []

    def catch(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        caught.append(arguments[0].float().cpu())

    network.eval()
    hook = network.head.layer.register_forward_pre_hook(catch)
    try:
        with torch.inference_mode(), progress(what, len(rows)) as advance:
            order = network.rows.order(rows.values)
            for start in range(0, len(rows), BATCH):
                batch = torch.from_numpy(rows.values[order[start : start + BATCH]])
                with autocast(precision, device):
                    network.body(normalise(batch))
                advance(len(batch))
    finally:
        hook.remove()
    return torch.cat(caught)[torch.from_numpy(np.argsort(order))]
