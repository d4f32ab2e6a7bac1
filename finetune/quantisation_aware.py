"""Quantisation-aware training: every layer sees its weights and its input rounded as int8 rounds them, and gradients pass straight through.

Jacob et al. 2018, arXiv:1712.05877; gradients by the straight-through estimator (Bengio et al. 2013, arXiv:1308.3432). What comes out are
plain float weights and the range of each layer's input, which the quantiser is then given: torch's own fake-quantised graphs do not export
(pytorch#167063).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from finetune.evaluation import eager_accuracy
from finetune.network import Network
from finetune.recovery import recover
from fmx.data.rows import Rows
from fmx.run import Run

MOMENTUM = 0.01
"""Share of a batch's smallest and largest value in the running range."""

LEVELS = 255
RATE = 1e-4
"""Peak rate: rounding errors are small, and so is what mends them."""


class _RoundedWeight(nn.Module):
    """A weight as its int8 form stands for it: symmetric, a scale for each output channel."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def forward(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)))
        scale = (largest / self._limit).clamp(min=1e-12)
        zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self._limit, self._limit)


@dataclass
class InputRange:
    """The range of a layer's input, followed while the network trains; as a hook it rounds the input to 256 steps of it."""

    low: float = 0.0
    high: float = 0.0
    is_measuring: bool = True

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Follow the range and round."""
        inputs = given[0]
        low, high = (float(value) for value in torch.aminmax(inputs.detach()))
        if self.is_measuring:
            self.low, self.high = min(self.low, low), max(self.high, high)
            return given
        if module.training:
            self.low = min(0.0, (1 - MOMENTUM) * self.low + MOMENTUM * low)
            self.high = max(0.0, (1 - MOMENTUM) * self.high + MOMENTUM * high)
        scale = max((self.high - self.low) / LEVELS, 1e-12)
        zero = round(-self.low / scale)
        return (torch.fake_quantize_per_tensor_affine(inputs, scale, zero, 0, LEVELS), *given[1:])


@contextmanager
def rounded(body: nn.Module, limit: int) -> Iterator[dict[str, InputRange]]:
    """Round weights and inputs of every convolution and linear layer inside the block; gives the ranges by the layers' names.

    Args:
        body: changed in place, and put back when the block ends.
        limit: largest integer of a weight: 127, or 64 where weights have 7 bits.
    """
    layers = {name: module for name, module in body.named_modules() if isinstance(module, nn.Conv2d | nn.Linear) and _is_plain(body, name)}
    ranges = {name: InputRange() for name in layers}
    hooks = [module.register_forward_pre_hook(ranges[name]) for name, module in layers.items()]
    for module in layers.values():
        parametrize.register_parametrization(module, "weight", _RoundedWeight(limit))
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()
        for module in layers.values():
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def _is_plain(body: nn.Module, name: str) -> bool:
    """The output layer of torch's attention is read as a tensor, past its forward."""
    parent = name.rpartition(".")[0]
    return not isinstance(body.get_submodule(parent), nn.MultiheadAttention)


@dataclass(frozen=True)
class Rounded:
    """What quantisation-aware training came to."""

    ranges: dict[str, tuple[float, float]]
    """Of each layer's input, by the layer's name."""
    accuracy: float
    """On the validation rows, rounded."""


def train_rounded(
    network: Network, run: Run, rows: dict[str, Rows], calibration: np.ndarray, epochs: int, limit: int, may_flip: bool, say: Callable[[str], None]
) -> Rounded:
    """Train a network in place under rounding, with the run as its teacher.

    Args:
        network: float, on the CPU or a GPU; its batch norms keep their statistics.
        run: where it came from.
        rows: decoded, `train` and `validation`.
        calibration: rows that the ranges start from, uint8 [n, height, width, 3].
        epochs: how long.
        limit: see `rounded`.
        may_flip: whether a mirrored image keeps its label.
        say: called with lines for a person.
    """
    device = next(network.parameters()).device
    with rounded(network.body, limit) as ranges:
        network.eval()
        with torch.inference_mode():
            for start in range(0, len(calibration), 32):
                network(torch.from_numpy(calibration[start : start + 32]).to(device))
        for one in ranges.values():
            one.is_measuring = False
        recover(network, run, rows, epochs, may_flip, say, "int8 recovery", rate=RATE, norms="frozen")
        return Rounded({name: (one.low, one.high) for name, one in ranges.items()}, eager_accuracy(network, rows["validation"]))
