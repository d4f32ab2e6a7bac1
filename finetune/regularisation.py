"""Dropout and stochastic depth of a network, set after it is built; neither changes a weight's name, so a run exports as before."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from finetune.network import Network
from fmx.errors import UsageError


def set_dropout(network: Network, share: float) -> None:
    """Drop this share of the head's inputs while training, by a hook, so that a probe on features does it too; the model's own dropout there goes."""
    head = network.head
    parent = network.body.get_submodule(head.path.rpartition(".")[0])
    for name, module in parent.named_children():
        if isinstance(module, nn.Dropout) and (isinstance(parent, nn.Sequential) or name == "head_drop"):
            module.p = 0.0

    def drop(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return functional.dropout(arguments[0], share, training=layer.training), *arguments[1:]

    head.layer.register_forward_pre_hook(drop)


def set_drop_path(body: nn.Module, share: float) -> None:
    """Set stochastic depth (Huang et al. 2016, arXiv:1603.09382): `share` at the last block, falling linearly to 0 at the first.

    Raises:
        UsageError: the model has no stochastic depth.
    """
    paths = [module for module in body.modules() if type(module).__name__ in ("StochasticDepth", "DropPath")]
    if not paths:
        raise UsageError(
            f"{type(body).__name__} has no stochastic depth, so --drop-path would do nothing.",
            hint="torchvision's EfficientNet, ConvNeXt, Swin and MaxViT have; so have timm models built with drop_path_rate.",
        )
    for position, module in enumerate(paths):
        rate = share * (position + 1) / len(paths)
        setattr(module, "p" if hasattr(module, "p") else "drop_prob", rate)
