"""The network that is trained, evaluated and exported: normalisation and base model with our head, on raw uint8 rows."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.base_models import BaseModel, build_base_model
from finetune.heads import Head, find_head, replace_head
from fmx.contract import ImageInput
from fmx.errors import ModelError
from fmx.run import Run


class Network(nn.Module):
    """uint8 [batch, height, width, 3] to logits float32 [batch, classes]; `body` takes normalised float [batch, 3, height, width]."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, spec: ImageInput) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    @property
    def head(self) -> Head:
        """The last layer."""
        return find_head(self.body)

    def normalise(self, rows: Tensor) -> Tensor:
        """Turn uint8 [n, h, w, 3] into normalised float32 [n, 3, h, w] in channels-last memory, which is what the rows already are."""
        return (rows.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def forward(self, rows: Tensor) -> Tensor:
        """Give logits float32 [n, classes] for rows uint8 [n, h, w, 3]."""
        logits: Tensor = self.body(self.normalise(rows))
        return logits


def build_network(name: str, weights: str, size: int, classes: int) -> tuple[Network, BaseModel, ImageInput]:
    """Build a base model with a fresh head and the input contract that goes with it. Raises: `ModelError`."""
    base = build_base_model(name, weights, size)
    replace_head(base.module, classes)
    spec = ImageInput(height=size, width=size, mean=base.mean, std=base.std, interpolation=base.interpolation)  # type: ignore[arg-type]
    return Network(base.module, spec), base, spec


def restore_network(run: Run) -> Network:
    """Rebuild a run's network with its best weights, on the CPU, ready to evaluate.

    Raises:
        ModelError: this version of fmx or torchvision builds another architecture under the run's model name.
    """
    info = run.info
    base = build_base_model(info.model, "none", info.input.height)
    replace_head(base.module, len(info.labels))
    try:
        state = base.module.state_dict()  # keeps its version metadata, which MNASNet checks
        loaded = load_file(run.weights)
        if set(loaded) != set(state):
            raise RuntimeError(f"{len(set(loaded) ^ set(state))} tensors have other names")
        state.update(loaded)
        base.module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{run.weights.name} does not fit {info.model} as built here: {error}", hint="Train again with: fmx train") from error
    return Network(base.module, info.input).eval()
