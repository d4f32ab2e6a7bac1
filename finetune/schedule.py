"""The learning rate over a training, and what each parameter's share of it is."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """Give the share of the peak rate at a step: linear warm-up, then cosine decay to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(module: nn.Module, rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Group a module's trainable parameters at one peak rate; vectors (norms, biases) are not decayed."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    plain = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        {"params": decayed, "peak": rate, "weight_decay": weight_decay},
        {"params": plain, "peak": rate, "weight_decay": 0.0},
    ]
