"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751): a narrow layer with a nonlinearity, which no weight of the base model can take up.

A network keeps them, so their width stands in the encoder's configuration, from which a run is built again. They lie where Pfeiffer et al.
2020, arXiv:2005.00247, found one a block to be enough: behind the layer that brings a block's hidden width down again, before its residual.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from finetune.structure import replace_module
from fmx.errors import ModelError

WIDTH_KEY = "fmx_adapter_width"
"""In an encoder's configuration."""
ADAPTER_WIDTH = 48
"""An eighth of MiniLM's width."""


class Bottleneck(nn.Module):
    """Adds to what it is given what passes a narrow layer: at first nothing, for the way up begins at zero."""

    def __init__(self, outer: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(outer, width)
        self.up = nn.Linear(width, outer)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Keep the shape: [..., outer]."""
        adapted: Tensor = hidden + self.up(functional.gelu(self.down(hidden)))
        return adapted


def down_projections(encoder: nn.Module) -> list[str]:
    """Name the layers that bring a block's hidden width down again: every Linear of a list of blocks that takes more than it gives."""
    of_adapters = tuple(f"{name}." for name, module in encoder.named_modules() if isinstance(module, Bottleneck))
    return [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear)
        and module.in_features > module.out_features
        and any(part.isdigit() for part in name.split("."))
        and not name.startswith(of_adapters)
    ]


def adapters_of(encoder: nn.Module) -> list[Bottleneck]:
    """List an encoder's adapters."""
    return [module for module in encoder.modules() if isinstance(module, Bottleneck)]


def add_adapters(encoder: Any, width: int) -> None:
    """Put an adapter behind every block's down-projection, and the width into the encoder's configuration.

    Args:
        encoder: of transformers; its answers stay what they are.
        width: of the bottleneck; 0 adds nothing.

    Raises:
        ModelError: no layer is one.
    """
    if width == 0:
        return
    names = down_projections(encoder)
    if not names:
        raise ModelError("Adapters find no layer of a block to stand behind.", hint="Use --method lora or finetune.")
    for name in names:
        layer = encoder.get_submodule(name)
        adapter = Bottleneck(layer.out_features, width).to(layer.weight.device)
        replace_module(encoder, name, nn.Sequential(layer, adapter))
    setattr(encoder.config, WIDTH_KEY, width)


def adapter_width(config: Any) -> int:
    """Read the width from an encoder's configuration; 0 where there are no adapters. Raises: `ModelError`: it is no width."""
    width = getattr(config, WIDTH_KEY, 0)
    if not isinstance(width, int) or not 0 <= width <= 4096:
        raise ModelError(f"{WIDTH_KEY} is {width!r} in the encoder's configuration.", hint="Copy the run again, as a whole.")
    return width
