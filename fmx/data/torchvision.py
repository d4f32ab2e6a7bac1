"""torchvision's data sets as PNG files and a manifest in the data folder; finetune/downloads.py writes them, this opens them without torch."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from PIL import Image

from fmx.data.cifar10 import data_folder
from fmx.data.manifest import open_manifest
from fmx.data.source import Source
from fmx.errors import DataError

PREFIX = "torchvision:"
MANIFEST = "manifest.csv"
MIRRORED_DIFFERS = frozenset({"MNIST", "KMNIST", "USPS", "SVHN", "GTSRB"})
"""Digits, letters and signs, which a mirror makes wrong."""
SMALL = 64
"""Side in pixels up to which images are trained at this size instead of 224."""


def torchvision_folder(spec: str) -> Path:
    """Return where the files of `torchvision:NAME` live."""
    return data_folder() / f"torchvision-{spec.removeprefix(PREFIX)}"


def open_torchvision(spec: str, seed: int, group_by: str | None = None) -> Source:
    """Open `torchvision:NAME` from the files on this disk.

    Raises:
        DataError: it was not written yet; the hint says how.
    """
    manifest = torchvision_folder(spec) / MANIFEST
    if not manifest.is_file():
        raise DataError(
            f"{spec} is not at {manifest.parent}.",
            hint=f"fmx train --data {spec} writes it where torchvision is installed; otherwise copy the folder from such a machine.",
        )
    source = open_manifest(manifest, seed, group_by)
    with Image.open(io.BytesIO(source.splits["train"][0].read())) as image:
        small = max(image.size) <= SMALL
    size = SMALL if small else source.suggested_size
    return replace(source, name=spec, suggested_size=size, may_flip=spec.removeprefix(PREFIX) not in MIRRORED_DIFFERS)
