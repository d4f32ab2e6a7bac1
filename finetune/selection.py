"""Which unlabelled images to label next: those that the network is unsure of, and that differ from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from finetune.device import choose_device
from finetune.features import compute_features
from finetune.network import restore_network
from fmx.data.pool import read_pool
from fmx.errors import UsageError
from fmx.run import Run
from fmx.statistics import softmax
from fmx.tasks import require_images

POOL_FACTOR = 10
"""The choice is made among this many times as many of the most uncertain images."""


def select_images(run: Run, pool: Path, count: int, device: str = "auto") -> list[tuple[str, float]]:
    """Choose images to label: greedy k-center (Sener & Savarese 2018, arXiv:1708.00489) among the most uncertain by entropy.

    Args:
        run: finished; its eager network judges.
        pool: a folder of images without labels.
        count: how many.
        device: auto, cpu or cuda.

    Returns:
        (file below the folder, entropy in nats), in the order of choice: the most uncertain first.

    Raises:
        UsageError: the pool has fewer images, or the run is an ensemble, which has no one feature space.
        DataError: the pool cannot be read.
    """
    if run.info.members:
        raise UsageError("An ensemble has no one feature space to measure differences in.", hint="Select with one of its members.")
    rows = read_pool(pool, require_images(run.info.input, "fmx data select"))
    if count > len(rows):
        raise UsageError(f"{pool} holds {len(rows)} images, fewer than {count}.", hint="Ask for fewer with -n.")
    place = choose_device(device)
    network = restore_network(run).to(place)
    features = compute_features(network, rows, place, "features", lambda batch: network.prepare(batch.to(place))).flatten(1)
    with torch.inference_mode():
        layer = network.head
        logits = layer.tail(layer.layer(_as_given(features, layer.layer).to(place))).cpu().numpy()
    probabilities = softmax(logits)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    chosen = k_center(features.numpy(), entropy, count)
    return [(rows.names[i], float(entropy[i])) for i in chosen]


def k_center(features: np.ndarray, entropy: np.ndarray, count: int) -> list[int]:
    """Choose among the most uncertain: the first of them, then each time the one farthest from all chosen.

    Args:
        features: float [n, d].
        entropy: float [n].
        count: how many; at most n.
    """
    uncertain = np.argsort(-entropy, kind="stable")[: max(count, min(len(entropy), POOL_FACTOR * count))]
    points = features[uncertain] / np.maximum(np.linalg.norm(features[uncertain], axis=1, keepdims=True), 1e-12)
    chosen = [0]
    nearest = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < count:
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [int(uncertain[i]) for i in chosen]


def _as_given(features: torch.Tensor, layer: torch.nn.Module) -> torch.Tensor:
    """Features were flattened to measure distances; a convolutional head needs its map back."""
    if isinstance(layer, torch.nn.Conv2d):
        side = round((features.shape[1] / layer.in_channels) ** 0.5)
        return features.reshape(len(features), layer.in_channels, side, side)
    return features
