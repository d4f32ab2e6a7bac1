"""Weights from a file into a model, with every tensor accounted for. Pickle is never executed."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from finetune.heads import AUXILIARY_HEADS, find_head
from fmx.errors import ModelError, first_line

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"
"""Batch norms count their batches since torch 0.4; files from before lack the counters, and nothing needs them."""

_SHOWN = 8
_DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$")
"""DenseNet's published files name `norm.1` what the model names `norm1`."""


def read_state(path: Path) -> State:
    """Read a state dict from .safetensors, or from .pth/.pt with `weights_only=True`.

    A state dict under `state_dict`, `model` or `model_state_dict` is found, and the `module.` prefix of data-parallel training is taken off.

    Raises:
        ModelError: no such file, or it holds no state dict.
    """
    if not path.is_file():
        raise ModelError(f"There is no weights file {path}.", hint="Give --weights default, none, or a .safetensors, .pth or .pt file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        reason = first_line(error)
        raise ModelError(f"{path} cannot be read as weights: {reason}", hint="Only plain tensors are loaded, never pickled code.") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path} holds no state dict.", hint="Save model.state_dict(), best with safetensors.")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_base(model: nn.Module, state: State, origin: str) -> None:
    """Load a state dict into a model that still has its own head; the head and auxiliary heads may be missing or of another shape.

    Raises:
        ModelError: other tensors are missing, unexpected or of another shape; all three lists are in the message.
    """
    own = model.state_dict()
    state = {_DENSE_LAYER.sub(r"\1\2", key): value for key, value in state.items()}
    head = find_head(model).path
    loose = tuple(f"{name}." for name in (head, *AUXILIARY_HEADS))
    missing = [key for key in own if key not in state and not key.startswith(loose) and not key.endswith(COUNTER)]
    unexpected = [key for key in state if key not in own and not key.startswith(loose)]
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape and not key.startswith(loose)
    ]
    if missing or unexpected or misshapen:
        faults = [_listed("missing", missing), _listed("unexpected", unexpected), _listed("of another shape", misshapen)]
        raise ModelError(
            f"{origin} does not fit {type(model).__name__}: {'; '.join(fault for fault in faults if fault)}.",
            hint="Give the --model that these weights were saved from.",
        )
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    own.update(fitting)  # in place: the state's own version metadata, which MNASNet checks, is kept
    model.load_state_dict(own)


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"
