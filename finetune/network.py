"""The network that is trained, evaluated and exported: normalisation and base model with our head, on raw uint8 rows."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.base_models import BaseModel, build_base_model, try_size
from finetune.ensemble import Ensemble
from finetune.heads import Head, find_head, replace_head
from finetune.structure import Structure, apply_structure
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
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    @property
    def head(self) -> Head:
        """The last layer."""
        return find_head(self.body)

    def normalise(self, rows: Tensor) -> Tensor:
        """Turn uint8 [n, h, w, 3] into normalised float32 [n, 3, h, w] in channels-last memory, which is what the rows already are."""
        return (rows.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def pixels(self, images: Tensor) -> Tensor:
        """Undo the normalisation: float [n, 3, h, w] on 0..255."""
        return images * self.std + self.mean

    def forward(self, rows: Tensor) -> Tensor:
        """Give logits float32 [n, classes] for rows uint8 [n, h, w, 3]."""
        logits: Tensor = self.body(self.normalise(rows))
        return logits


def build_network(name: str, weights: str, size: int, classes: int) -> tuple[Network, BaseModel, ImageInput]:
    """Build a base model with a fresh head and the input contract that goes with it. Raises: `ModelError`."""
    base = build_base_model(name, weights, size)
    replace_head(base.module, classes)
    try_size(base.module, name, size, classes)
    spec = ImageInput(height=size, width=size, mean=base.mean, std=base.std, interpolation=base.interpolation)  # type: ignore[arg-type]
    return Network(base.module, spec), base, spec


def continue_network(run: Run, size: int, labels: tuple[str, ...]) -> tuple[Network, BaseModel, ImageInput]:
    """Build a network from a finished run's weights, its head included where the labels are the same.

    Raises:
        ModelError: the run's weights do not fit its model as built here, or the size.
    """
    info = run.info
    if info.members:
        raise ModelError(f"{info.name} is an ensemble, which is not trained on.", hint="Continue one of its members.")
    base = build_base_model(info.model, "none", size)
    origin = f"run {info.name} ({info.weights_origin})"
    spec = info.input.model_copy(update={"height": size, "width": size})
    base = BaseModel(base.module, origin, spec.mean, spec.std, spec.interpolation)
    replace_head(base.module, len(info.labels))
    if info.structure is not None:
        apply_structure(base.module, info.structure)
    _load(base.module, run)
    if info.labels != labels:
        replace_head(base.module, len(labels))
    return Network(base.module, spec), base, spec


def restore_network(run: Run, *, calibrated: bool = True) -> Network:
    """Rebuild a run's network with its best weights, on the CPU, ready to evaluate.

    Args:
        run: finished.
        calibrated: with its temperature in the head; false gives the weights as trained.

    Raises:
        ModelError: this version of fmx or torchvision builds another architecture under the run's model name.
    """
    info = run.info
    if info.members:
        bodies = [_bare(member.model, member.input.height, len(info.labels), member.structure) for member in info.members]
        body: nn.Module = Ensemble(bodies, [member.input for member in info.members])
    else:
        body = _bare(info.model, info.input.height, len(info.labels), info.structure)
    _load(body, run)
    network = Network(body, info.input).eval()
    if calibrated:
        apply_temperature(network, info.temperature)
    return network


def _bare(model: str, size: int, classes: int, structure: Structure | None) -> nn.Module:
    base = build_base_model(model, "none", size)
    replace_head(base.module, classes)
    if structure is not None:
        apply_structure(base.module, structure)
    return base.module


def _load(module: nn.Module, run: Run) -> None:
    try:
        state = module.state_dict()  # keeps its version metadata, which MNASNet checks
        loaded = load_file(run.weights)
        if set(loaded) != set(state):
            raise RuntimeError(f"{len(set(loaded) ^ set(state))} tensors have other names")
        state.update(loaded)
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{run.weights.name} does not fit {run.info.model} as built here: {error}", hint="Train again with: fmx train") from error


@torch.no_grad()
def apply_temperature(network: Network, temperature: float) -> None:
    """Divide every logit by a temperature (Guo et al. 2017, arXiv:1706.04599) by dividing the head's weights: no graph needs a node for it.

    What follows a head (SqueezeNet's ReLU and mean) is positively homogeneous, so this holds for every family.
    """
    if isinstance(network.body, Ensemble):
        network.body.temperature = temperature
        return
    layer = network.head.layer
    layer.weight.div_(temperature)
    if layer.bias is not None:
        layer.bias.div_(temperature)
