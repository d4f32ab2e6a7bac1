"""The layers of a network in order from input to output, for layer-wise rates and gradient checkpointing. One rule for every family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_HOLDER_SHARE = 0.5
"""A module with more than this share of all parameters holds layers and is none itself (ViT's encoder)."""


def layers_in_order(body: nn.Module) -> list[list[nn.Module]]:
    """Cut a network into layers: residual blocks, transformer blocks, or a weight layer with the norms and activations after it.

    Every parameter that belongs to a sub-module is in exactly one layer; those of the root itself (class tokens) are in none.
    """
    total = sum(parameter.numel() for parameter in body.parameters())
    layers: list[list[nn.Module]] = []
    joinable = False
    for module in _walk(body, total):
        is_leaf = not any(True for child in module.children() for _ in child.parameters())
        starts = not is_leaf or any(parameter.ndim > 1 for parameter in module.parameters())
        if starts or not joinable or not layers:
            layers.append([module])
        else:
            layers[-1].append(module)
        joinable = is_leaf
    return [layer for layer in layers if any(True for module in layer for _ in module.parameters())]


def _walk(module: nn.Module, total: int) -> Iterator[nn.Module]:
    for child in module.children():
        own = sum(parameter.numel() for parameter in child.parameters())
        has_children = any(True for _ in child.children())
        if has_children and (_is_container(child) or own > _HOLDER_SHARE * total or _holds_blocks(child)):
            yield from _walk(child, total)
        else:
            yield child


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a module is a stack of blocks under another name, such as a BERT's encoder, which may have less than half of all weights."""
    lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
    return any(len(blocks) > 1 and all(any(True for _ in block.children()) for block in blocks) for blocks in lists)


def _is_container(module: nn.Module) -> bool:
    """Convolution-norm-activation triples are Sequentials too: those of a class of their own with leaves alone are layers."""
    if type(module) in (nn.Sequential, nn.ModuleList):
        return True
    return isinstance(module, nn.Sequential | nn.ModuleList) and any(True for child in module.children() for _ in child.children())


def checkpoint_gradients(body: nn.Module) -> int:
    """Recompute each block's activations in the backward pass instead of keeping them; gives how many blocks.

    Only blocks with inner structure are recomputed; their batch norms count each batch once all the same.
    """
    count = 0
    for layer in layers_in_order(body):
        for module in layer:
            if any(True for _ in module.children()):
                _checkpoint(module)
                count += 1
    return count


def _checkpoint(module: nn.Module) -> None:
    module.forward = MethodType(_recomputing, module)  # a method, not a closure: a copy of the module (EMA, range test) must use its own weights


def _recomputing(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
    forward = partial(type(self).forward, self)
    if not self.training or not torch.is_grad_enabled():
        return forward(*arguments, **keywords)
    norms = [norm for norm in self.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    return checkpoint(forward, *arguments, **keywords, use_reentrant=False, context_fn=lambda: (nullcontext(), _FrozenStatistics(norms)))


class _FrozenStatistics:
    """While a block is recomputed its batch norms must not count the batch a second time."""

    def __init__(self, norms: list[nn.modules.batchnorm._BatchNorm]) -> None:
        self._norms = norms
        self._momenta: list[float | None] = []

    def __enter__(self) -> None:
        self._momenta = [norm.momentum for norm in self._norms]
        self._counters = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0

    def __exit__(self, *exc: object) -> None:
        for norm, momentum, counter in zip(self._norms, self._momenta, self._counters, strict=True):
            norm.momentum = momentum
            if counter is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(counter)
