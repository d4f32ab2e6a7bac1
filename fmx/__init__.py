"""fmx: fine-tune a pretrained model, prove it right as a model package, and serve it.

The public Python API is what this module exports; each name loads its room only when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.pipeline import export_package as export
    from finetune.training import train_run as train
    from fmx.predictor import PackagePredictor

__all__ = ["export", "load", "train"]

_LAZY = {"train": ("finetune.training", "train_run"), "export": ("export.pipeline", "export_package")}


def load(package: str | None = None, *, variant: str | None = None) -> PackagePredictor:
    """Open a model package (a folder, a name or `latest`) as a `fmx.predictor.PackagePredictor`."""
    from fmx.package import find_package
    from fmx.predictor import PackagePredictor

    return PackagePredictor.open(find_package(package), variant=variant)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'fmx' has no attribute {name!r}")
