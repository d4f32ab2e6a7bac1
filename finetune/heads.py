"""Where a base model's last layer is, and how it is replaced for our classes. One rule covers every torchvision classifier and timm's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fmx.errors import ModelError

HEAD_ATTRIBUTES = ("fc", "classifier", "heads", "head")
"""fc: ResNet, RegNet, ShuffleNet, GoogLeNet, Inception. classifier: DenseNet, VGG, AlexNet, MobileNet, EfficientNet, ConvNeXt, MNASNet,
MaxViT, SqueezeNet, timm. heads: ViT. head: Swin. In a Sequential the last Linear (SqueezeNet: 1 x 1 Conv2d) is the head."""

AUXILIARY_HEADS = ("AuxLogits", "aux1", "aux2")
"""Inception v3's and GoogLeNet's: trained on another loss and never served, so they are taken off."""


@dataclass(frozen=True)
class Head:
    """The last layer: its place in the model, the layer, and what the model does after it (`tail`: SqueezeNet's pooling, pairs of several labels)."""

    path: str
    layer: nn.Linear | nn.Conv2d
    tail: Callable[[Tensor], Tensor]


def find_head(model: nn.Module) -> Head:
    """Find the last layer of a classifier: where timm says it is, else by the attributes that torchvision's families use.

    Raises:
        ModelError: no attribute of `HEAD_ATTRIBUTES` holds a Linear or Conv2d.
    """
    said = _timm_head(model)
    if said:
        return said
    for attribute in HEAD_ATTRIBUTES:
        holder = getattr(model, attribute, None)
        if isinstance(holder, nn.Module):
            layers = [(name, layer) for name, layer in holder.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
            if layers:
                name, layer = layers[-1]
                tail = _pool_map if isinstance(layer, nn.Conv2d) else getattr(model, "after_head", _keep)
                return Head(f"{attribute}.{name}" if name else attribute, layer, tail)
    raise ModelError(f"{type(model).__name__} has no known head.", hint=f"Its last layer must be under one of: {', '.join(HEAD_ATTRIBUTES)}.")


def _timm_head(model: nn.Module) -> Head | None:
    configuration = getattr(model, "pretrained_cfg", None)
    path = configuration.get("classifier") if isinstance(configuration, dict) else None
    if not isinstance(path, str) or not path:
        return None
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        return None
    return Head(path, layer, _keep) if isinstance(layer, nn.Linear) else None


def replace_head(model: nn.Module, classes: int) -> Head:
    """Put a fresh last layer for `classes` in place of the model's and take off auxiliary heads.

    Linear heads keep whether they have a bias (MaxViT's has none). Weights are drawn from N(0, 0.01), biases are 0.
    """
    drop_auxiliary_heads(model)
    old = find_head(model)
    layer: nn.Linear | nn.Conv2d
    if isinstance(old.layer, nn.Conv2d):
        layer = nn.Conv2d(old.layer.in_channels, classes, kernel_size=1)
    else:
        layer = nn.Linear(old.layer.in_features, classes, bias=old.layer.bias is not None)
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    parent, _, name = old.path.rpartition(".")
    holder = model.get_submodule(parent)
    if isinstance(holder, nn.Sequential) and name.isdigit():
        holder[int(name)] = layer
    else:
        setattr(holder, name, layer)
    if isinstance(getattr(model, "num_classes", None), int):
        model.num_classes = classes  # type: ignore[assignment]
    return Head(old.path, layer, old.tail)


def drop_auxiliary_heads(model: nn.Module) -> None:
    """Take off auxiliary classifiers, so that the model gives one tensor in training too."""
    for name in AUXILIARY_HEADS:
        if isinstance(getattr(model, name, None), nn.Module):
            setattr(model, name, None)
            model.aux_logits = False  # type: ignore[assignment]


def _keep(logits: Tensor) -> Tensor:
    return logits


def _pool_map(logit_map: Tensor) -> Tensor:
    return torch.relu(logit_map).mean(dim=(2, 3))
