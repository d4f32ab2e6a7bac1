"""The pinned requirements of an image: what fmx and its extras need, with the versions of the environment that runs `fmx deploy`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fmx.errors import missing_extra

DISTRIBUTION = "fmx-toolkit"
GPU, CPU = "onnxruntime-gpu", "onnxruntime"
IMAGE_IS_LINUX = {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux"}
NEWEST_CUDA = 13
"""That the newest onnxruntime-gpu is built for."""


def pinned(device: str) -> dict[str, str]:
    """Give the specifier of every distribution that the image installs, by name.

    Args:
        device: `cpu` or `cuda`. Where onnxruntime-gpu is not installed here, its version is left to pip, up to onnxruntime's here: releases
            of the two are built from the same source, and the GPU's may come later.

    Raises:
        SurroundingsError: one of them is not installed here, so there is no version to pin.
    """
    found: dict[str, str] = {}
    asked: set[tuple[str, frozenset[str]]] = set()
    waiting = _needs(_installed(DISTRIBUTION), ("gpu" if device == "cuda" else "cpu", "serve"))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in asked:
            continue
        asked.add((name, frozenset(requirement.extras)))
        is_elsewhere = name == GPU and not _is_installed(GPU)
        installed = _installed(CPU if is_elsewhere else name)
        found[name] = f"{requirement.specifier},<={installed.version}" if is_elsewhere else f"=={installed.version}"
        waiting += _needs(installed, requirement.extras)
    return dict(sorted(found.items()))


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise missing_extra("cpu,serve", f"Pinning {name}") from None


def _needs(installed: Distribution, extras: Iterable[str]) -> list[Requirement]:
    """Give what a distribution needs in the image, with some of its extras."""
    needed = [Requirement(text) for text in installed.requires or []]
    here = {name: str(value) for name, value in default_environment().items()}
    places: list[dict[str, str]] = [{**here, **IMAGE_IS_LINUX, "extra": extra} for extra in ("", *extras)]
    return [one for one in needed if one.marker is None or any(one.marker.evaluate(place) for place in places)]


def cuda_major() -> int:
    """Give the CUDA that the pinned onnxruntime-gpu is built for, as its extra `cuda` says."""
    needed = _installed(GPU).requires or [] if _is_installed(GPU) else []
    majors = [int(match[1]) for text in needed if (match := re.match(r"nvidia-cuda-runtime\S*?\s*[~>=]=\s*(\d+)", text))]
    return majors[0] if majors else NEWEST_CUDA
