"""Averages of weights: along one training (EMA), and over finished runs (finetune/combination.py makes soups of them)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a module that follows its weights: after each step `decay` of itself and the rest of the module.

    Early on the decay is smaller, (1 + n) / (10 + n) after n steps, so that the untrained start is soon forgotten (as TensorFlow's
    ExponentialMovingAverage does). Buffers (running statistics) are averaged too.
    """

    def follow(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(now)(list(averaged), list(current), count)  # type: ignore[no-untyped-call]

    return AveragedModel(module, multi_avg_fn=follow, use_buffers=True)


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average state dicts tensor by tensor; counters are taken from the first."""
    return {
        key: torch.stack([state[key].float() for state in states]).mean(dim=0).to(value.dtype) if value.is_floating_point() else value.clone()
        for key, value in states[0].items()
    }
