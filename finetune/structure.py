"""The structure of a pruned network as plain data: layers' widths and the blocks that were taken out. It is rebuilt from that, without pickle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn

from fmx.errors import ModelError

Structure = dict[str, Any]
"""`widths`: for each layer its tensors' shapes and its counts; `removed`: the blocks that became the identity. JSON holds it."""

COUNTS = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "normalized_shape"),
    *("num_heads", "head_dim", "embed_dim", "kdim", "vdim", "hidden_dim"),
)


def read_structure(body: nn.Module, removed: Iterable[str] = ()) -> Structure:
    """Read what `apply_structure` needs to rebuild a network's shape from its base model."""
    widths = {}
    for name, module in body.named_modules():
        shapes = {key: list(tensor.shape) for key, tensor in _own_tensors(module)}
        if shapes:
            counts = {key: _plain(getattr(module, key)) for key in COUNTS if isinstance(getattr(module, key, None), int | tuple)}
            widths[name] = {"shapes": shapes, "counts": counts}
    return {"widths": widths, "removed": sorted(removed)}


def apply_structure(body: nn.Module, structure: Structure) -> None:
    """Give a base model with its new head the widths of a pruned network; the values of its tensors are then to be loaded.

    Raises:
        ModelError: the base model is built otherwise than when the structure was read.
    """
    for name in structure["removed"]:
        replace_module(body, name, nn.Identity())
    modules = dict(body.named_modules())
    known = {name for name, module in modules.items() if any(True for _ in _own_tensors(module))}
    if known != set(structure["widths"]):
        odd = sorted(known ^ set(structure["widths"]))[0]
        raise ModelError(f"The pruned network does not fit its base model as built here: {odd}.", hint="Prune again with: fmx export --prune")
    for name, wanted in structure["widths"].items():
        module = modules[name]
        for key, value in wanted["counts"].items():
            setattr(module, key, tuple(value) if isinstance(value, list) else value)
        for key, tensor in list(_own_tensors(module)):
            empty = torch.zeros(wanted["shapes"][key], dtype=tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                module.register_parameter(key, nn.Parameter(empty))
            else:
                module.register_buffer(key, empty)
    mend_attributes(body)


def timm_attention(body: nn.Module) -> list[Any]:
    """List timm's attention modules: a linear layer `qkv` for all heads, and the heads' sizes as numbers."""
    return [
        module for module in body.modules() if type(module).__module__.startswith("timm.") and isinstance(getattr(module, "qkv", None), nn.Linear)
    ]


def mend_attributes(body: nn.Module) -> None:
    """Bring what modules without tensors of their own know of their widths up to date with their layers: the heads of attention, ViT's width."""
    patches, vit = getattr(body, "conv_proj", None), cast(Any, body)
    if hasattr(body, "hidden_dim") and isinstance(patches, nn.Conv2d):
        vit.hidden_dim = patches.out_channels
    for attention in timm_attention(body):
        attention.head_dim = attention.qkv.out_features // 3 // attention.num_heads
        attention.attn_dim = attention.head_dim * attention.num_heads
        attention.scale = attention.head_dim**-0.5


def replace_module(body: nn.Module, name: str, new: nn.Module) -> None:
    """Put another module in the place of a named one."""
    parent, _, last = name.rpartition(".")
    body.get_submodule(parent)._modules[last] = new


def _own_tensors(module: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(recurse=False)
    kept = module._non_persistent_buffers_set
    yield from ((name, buffer) for name, buffer in module.named_buffers(recurse=False) if name not in kept)


def _plain(value: int | tuple[int, ...]) -> int | list[int]:
    return list(value) if isinstance(value, tuple) else value
