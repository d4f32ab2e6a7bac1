"""Pseudo-labels from unlabelled images (FixMatch, Sohn et al. 2020, arXiv:2001.07685).

What the network says confidently about a lightly changed image is what it must say about the same image changed strongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.augmentation import Augment, augmentation
from finetune.modes import evaluating
from finetune.network import Network
from finetune.settings import TrainSettings
from fmx.contract import ImageInput
from fmx.data.pool import read_pool


@dataclass(frozen=True)
class Unlabelled:
    """The unlabelled part of one batch."""

    weak: Tensor
    """float [m, 3, height, width]"""
    strong: Tensor
    """The same rows, changed strongly."""


class FixMatch:
    """Draws unlabelled rows and gives their loss."""

    def __init__(self, rows: Tensor, network: Network, settings: TrainSettings, may_flip: bool, device: torch.device) -> None:
        self._rows, self._network, self._device = rows, network, device
        self._ratio, self._threshold = settings.unlabelled_ratio, settings.unlabelled_threshold
        self._weak: Augment = augmentation("light", may_flip=may_flip)
        self._strong: Augment = augmentation("rand", may_flip=may_flip)

    def images(self, batch: int, generator: torch.Generator) -> Unlabelled:
        """Draw rows for a labelled batch of so many."""
        chosen = self._rows[torch.randint(len(self._rows), (batch * self._ratio,), generator=generator)]
        normalise = self._network.prepare
        return Unlabelled(self._weak(chosen, normalise, self._device, generator), self._strong(chosen, normalise, self._device, generator))

    def loss(self, module: nn.Module, strong_logits: Tensor, drawn: Unlabelled) -> Tensor:
        """Give the cross-entropy against confident pseudo-labels, over all drawn rows."""
        with evaluating(module), torch.no_grad():
            confidence, said = functional.softmax(module(drawn.weak).float(), dim=1).max(dim=1)
        losses = functional.cross_entropy(strong_logits, said, reduction="none")
        return (losses * (confidence >= self._threshold)).mean()


def open_unlabelled(settings: TrainSettings, spec: ImageInput, network: Network, may_flip: bool, device: torch.device) -> FixMatch:
    """Read the folder of unlabelled images. Raises: `DataError` when it holds none that can be read."""
    pool = read_pool(Path(str(settings.unlabelled)), spec)
    return FixMatch(torch.from_numpy(pool.values), network, settings, may_flip, device)
