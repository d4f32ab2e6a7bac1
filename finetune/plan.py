"""What a method gives to the loop: which module is trained, on which tensors, at which rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fmx.data.rows import Rows

Batch = Callable[[Tensor, torch.Generator | None], Tensor]
"""Turns a slice of the inputs into the module's input; with a generator (training), rows may be augmented."""


@dataclass(frozen=True)
class Plan:
    """A training that the loop can run without knowing the method."""

    module: nn.Module
    """Takes what `batch` gives and returns logits [n, classes]. What of it is frozen stays frozen in `module.train()`."""
    train_inputs: Tensor
    validation_inputs: Tensor
    batch: Batch
    groups: list[dict[str, Any]]
    """Optimiser groups, each with its peak rate under `peak`."""


@dataclass(frozen=True)
class Inputs:
    """What a method may look at."""

    train: Rows
    validation: Rows
    may_flip: bool
    cache_key: str
    """SHA-256 over base weights and preprocessing; with a row fingerprint it names cached features."""
