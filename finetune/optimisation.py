"""Optimisers: the rate over a training, each parameter's share of it, and a range test that finds a peak."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from finetune.blocks import layers_in_order
from finetune.eager import without_compiler
from finetune.heads import Head
from finetune.settings import TrainSettings

RANGE_STEPS = 60
RANGE = (1e-6, 1.0)
"""Rates that the range test goes through."""


def rate_factor(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """Give the share of the peak rate at a step: linear warm-up, then constant, linear or cosine decay to 0.

    The cosine is that of Loshchilov & Hutter 2017, arXiv:1608.03983.
    """
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[schedule]


def parameter_groups(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float, share: float = 1.0) -> list[dict[str, Any]]:
    """Group trainable parameters at one peak rate, `rate` times `share`; vectors (norms, biases) are not decayed, and empty groups are left out."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "peak": rate * share, "share": share, "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "peak": rate * share, "share": share, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def network_groups(body: nn.Module, head: Head, settings: TrainSettings, rate: float) -> list[dict[str, Any]]:
    """Group a whole network: the head at its own rate, the base at `rate`, decayed layer by layer towards the input where asked.

    Layer-wise decay: Howard & Ruder 2018, arXiv:1801.06146, in the exponential form of Clark et al. 2020, arXiv:2003.10555.
    """
    head_ids = {id(parameter) for parameter in head.layer.parameters()}
    of_head = parameter_groups(head.layer.parameters(), rate, settings.weight_decay, settings.head_factor)
    if settings.layer_decay == 1:
        base = [parameter for parameter in body.parameters() if id(parameter) not in head_ids]
        return parameter_groups(base, rate, settings.weight_decay) + of_head
    layers = [[p for module in layer for p in module.parameters() if id(p) not in head_ids] for layer in layers_in_order(body)]
    layers = [layer for layer in layers if layer]
    known = head_ids | {id(parameter) for layer in layers for parameter in layer}
    first = [parameter for parameter in body.parameters() if id(parameter) not in known]  # class tokens, position embeddings
    layers[0] = first + layers[0]
    groups: list[dict[str, Any]] = []
    for height, layer in enumerate(reversed(layers)):
        groups += parameter_groups(layer, rate, settings.weight_decay, settings.layer_decay**height)
    return groups + of_head


def build_optimiser(groups: list[dict[str, Any]], kind: str, *, fused: bool = True) -> torch.optim.Optimizer:
    """Build AdamW, or SGD with Nesterov momentum 0.9, over groups that hold their `peak` rate.

    Args:
        groups: of parameters.
        kind: `adamw` or `sgd`.
        fused: one kernel for all tensors, on a CPU too several times as fast; torch has none for SGD on split tensors.
    """
    groups = [{**group, "lr": group["peak"]} for group in groups]
    optimiser: torch.optim.Optimizer
    if kind == "adamw":
        optimiser = without_compiler(torch.optim.AdamW)(groups, fused=fused)
    else:
        optimiser = without_compiler(torch.optim.SGD)(groups, momentum=0.9, nesterov=True, fused=fused)
    return optimiser


def range_test(
    module: nn.Module, groups: list[dict[str, Any]], kind: str, batch_loss: Callable[[nn.Module, int], Tensor]
) -> tuple[float, list[tuple[float, float]]]:
    """Find a peak rate: raise the rate step by step and take a tenth of the one with the lowest smoothed loss (Smith 2017, arXiv:1506.01186).

    Everything happens on a copy, and torch's random state is put back: a training after it is the training without it.

    Args:
        module: what is trained.
        groups: its groups; the ratios between their peaks are kept.
        kind: `adamw` or `sgd`.
        batch_loss: gives the loss of a module on the n-th batch.

    Returns:
        The rate for the group with the lowest head-free ratio (the base rate), and (rate, smoothed loss) of every step.
    """
    devices = sorted({parameter.device.index or 0 for parameter in module.parameters() if parameter.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        trial = copy.deepcopy(module)  # as the loop has prepared it: in training mode, but for norms whose statistics are frozen
        twins = dict(zip((id(p) for p in module.parameters()), trial.parameters(), strict=True))
        lead = groups[0]["peak"]
        optimiser = build_optimiser([{**group, "params": [twins[id(p)] for p in group["params"]]} for group in groups], kind)
        curve: list[tuple[float, float]] = []
        smoothed = 0.0
        for step in range(RANGE_STEPS):
            rate = RANGE[0] * (RANGE[1] / RANGE[0]) ** (step / (RANGE_STEPS - 1))
            for group in optimiser.param_groups:
                group["lr"] = rate * group["peak"] / lead
            loss = batch_loss(trial, step)
            smoothed = 0.9 * smoothed + 0.1 * float(loss.detach())
            curve.append((rate, smoothed / (1 - 0.9 ** (step + 1))))
            if not math.isfinite(smoothed) or curve[-1][1] > 4 * min(value for _, value in curve):
                break
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    finite = [(rate, loss) for rate, loss in curve if math.isfinite(loss)]
    lowest = min(finite[len(finite) // 4 :] or finite, key=lambda point: point[1])
    return lowest[0] / 10, finite
