"""The network that is trained, evaluated and exported: rows prepared, and base model with our head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.base_models import BaseModel, build_base_model, try_size
from finetune.ensemble import Ensemble
from finetune.heads import Head, find_head, replace_head
from finetune.rows import ImageRows, rows_of
from finetune.structure import Structure, apply_structure
from finetune.text_models import Extension, build_text_model, files_of, rebuild_text_body
from fmx.contract import ImageInput, Input
from fmx.errors import ModelError
from fmx.run import Run
from fmx.task_names import TEXTS


class Network(nn.Module):
    """Rows [n, *row_shape] to logits float32 [n, classes], of tokens [n, length, classes]; `body` takes rows that are prepared (finetune/rows.py)."""

    def __init__(self, body: nn.Module, spec: Input) -> None:
        super().__init__()
        self.body = body
        self.spec = spec
        self.rows = rows_of(spec)

    @property
    def head(self) -> Head:
        """The last layer."""
        return find_head(self.body)

    def prepare(self, rows: Tensor) -> Tensor:
        """Turn raw rows into what the body takes."""
        prepared: Tensor = self.rows(rows)
        return prepared

    def pixels(self, images: Tensor) -> Tensor:
        """Undo an image network's normalisation: float [n, 3, h, w] on 0..255."""
        return self._images.pixels(images)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalise float [n, 3, h, w] on 0..255, for an image network."""
        return self._images.normalised(pixels)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image network's rows."""
        return self._images.size

    @property
    def _images(self) -> ImageRows:
        if not isinstance(self.rows, ImageRows):
            raise ModelError("This network reads no images.", hint="This needs an image model.")
        return self.rows

    def forward(self, rows: Tensor) -> Tensor:
        """Give logits float32 [n, classes] for raw rows."""
        logits: Tensor = self.body(self.prepare(rows))
        return logits


def build_network(name: str, weights: str, size: int, classes: int) -> tuple[Network, BaseModel, ImageInput]:
    """Build a base model with a fresh head and the input contract that goes with it. Raises: `ModelError`."""
    base = build_base_model(name, weights, size)
    replace_head(base.module, classes)
    try_size(base.module, name, size, classes)
    spec = ImageInput(height=size, width=size, mean=base.mean, std=base.std, interpolation=base.interpolation)  # type: ignore[arg-type]
    return Network(base.module, spec), base, spec


@dataclass(frozen=True)
class Built:
    """A network as a training begins with it."""

    network: Network
    weights_origin: str
    files: dict[str, str] = field(default_factory=dict)
    """What belongs into the run beside its weights."""


def build_text_network(name: str, weights: str, max_length: int, classes: int, extension: Extension | None = None, task: str = TEXTS) -> Built:
    """Build a model of texts, of their tokens, or of pairs of them, with a fresh head. Raises: `ModelError`, `UsageError`."""
    base = build_text_model(name, weights, max_length, classes, extension, task)
    return Built(Network(base.module, base.spec), base.weights_origin, base.files)


def continue_network(run: Run, size: int | None, labels: tuple[str, ...]) -> Built:
    """Build a network from a finished run's weights, its head included where the labels are the same.

    Args:
        run: finished.
        size: side of the rows in pixels; None keeps the run's. A text run keeps its own window.
        labels: of the training that begins.

    Raises:
        ModelError: the run's weights do not fit its model as built here, or the size.
    """
    info = run.info
    if info.members:
        raise ModelError(f"{info.name} is an ensemble, which is not trained on.", hint="Continue one of its members.")
    spec: Input = info.input
    if isinstance(spec, ImageInput) and size is not None:
        spec = spec.model_copy(update={"height": size, "width": size})
    body = _bare(run, spec)
    _load(body, run)
    if info.labels != labels:
        replace_head(body, len(labels))
    files = {} if isinstance(spec, ImageInput) else files_of(run.folder)
    return Built(Network(body, spec), f"run {info.name} ({info.weights_origin})", files)


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
        bodies = [_bare_image(member.model, member.input.height, len(info.labels), member.structure) for member in info.members]
        body: nn.Module = Ensemble(bodies, [member.input for member in info.members])
    else:
        body = _bare(run, info.input)
    _load(body, run)
    network = Network(body, info.input).eval()
    if calibrated:
        apply_temperature(network, info.temperature)
        apply_thresholds(network, info.thresholds)
    return network


def _bare(run: Run, spec: Input) -> nn.Module:
    """Build a run's architecture."""
    info = run.info
    if isinstance(spec, ImageInput):
        return _bare_image(info.model, spec.height, len(info.labels), info.structure)
    return rebuild_text_body(run.folder, spec, len(info.labels), info.task)


def _bare_image(model: str, size: int, classes: int, structure: Structure | None) -> nn.Module:
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
def apply_thresholds(network: Network, thresholds: Sequence[float]) -> None:
    """Shift the head so that a label whose probability was its threshold gets 0.5: no graph needs a node for it, and no caller a table."""
    if len(thresholds):
        layer = network.head.layer
        assert layer.bias is not None  # of texts, whose heads have one
        layer.bias.sub_(torch.logit(torch.tensor(thresholds, device=layer.bias.device, dtype=layer.bias.dtype)))


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
