"""What a method gives to the loop: which module is trained, on which tensors, at which rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.network import Network
from finetune.settings import TrainSettings
from finetune.tasks.judging import Judge
from fmx.data.rows import Rows

Batch = Callable[[Tensor, torch.Generator | None], Tensor]
"""Turns a slice of the inputs into the module's input; with a generator (training), rows may be augmented."""


def _nothing() -> None:
    """Nothing is left to do."""


@dataclass(frozen=True)
class Targets:
    """What is answered where that is not one label a row, such as the hidden tokens of a text."""

    of: Callable[[Tensor], Tensor]
    """Gives from what `batch` gives the targets, int64 [m], in the order of the module's logits [m, classes]."""
    classes: int


@dataclass(frozen=True)
class Plan:
    """A stage of a training that the loop can run without knowing the method."""

    module: nn.Module
    """Takes what `batch` gives and returns logits [n, classes], of tokens [n, length, classes]. What of it is frozen stays frozen in training."""
    train_inputs: Tensor
    """[n, ...]"""
    train_labels: Tensor
    """int64 [n], of tokens [n, max_length] as `Rows.labels`"""
    validation_inputs: Tensor
    validation_labels: Tensor
    batch: Batch
    groups: list[dict[str, Any]]
    """Optimiser groups, each with its peak rate under `peak`; the first group is the one that `--lr` speaks of."""
    freeze_statistics: bool = False
    """Whether all batch norms keep their statistics; those with frozen weights do in any case."""
    on_rows: bool = True
    """Whether the module takes prepared rows, and not features of them, so that mixing, attacks and a teacher make sense."""
    answers: Callable[[Rows], np.ndarray] | None = None
    """Gives the whole network's logits for decoded rows, float32 [n, classes], where the method has a quicker way than the network."""
    lengths: tuple[Tensor, Tensor] | None = None
    """Of training and validation inputs, int64 [n] each, where they have different ones: those of about one length share a batch."""
    keeps_last: bool = False
    """Whether the last epoch is kept, whatever the validation rows say."""
    judge: Judge | None = None
    """What epochs are judged by; None is accuracy."""
    targets: Targets | None = None
    """None: the labels."""
    finish: Callable[[], None] = _nothing
    """Called once with the best weights loaded (LoRA merges here)."""


@dataclass(frozen=True)
class Inputs:
    """What a method may look at."""

    train: Rows
    validation: Rows
    may_flip: bool
    cache_key: str
    """SHA-256 over base weights and preprocessing; with a row fingerprint it names cached features."""
    labels: tuple[str, ...] = ()
    """Wanted where tokens are answered."""


MakePlan = Callable[[Network, Inputs, TrainSettings, torch.device], Plan]


@dataclass(frozen=True)
class Stage:
    """One part of a method: its name for people, and how its plan is made once the stages before it are done."""

    name: str
    plan: MakePlan
    epochs: Callable[[TrainSettings], int] = lambda settings: settings.epochs
    passes: bool = False
    """Whether rows are passed through the network once, before step one, and never through it in a step."""
