"""Fetching data sets that torchvision knows, where there is a network; reading them is fmx/data/.

CIFAR-10 is read from its own archive. Every other set is written once as PNG files with a manifest, which need no torch to be read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

from fmx import storage
from fmx.data.cifar10 import data_folder, find_cifar10
from fmx.data.torchvision import MANIFEST, PREFIX, torchvision_folder
from fmx.errors import DataError, missing_extra, nearest_names
from fmx.progress import progress

_TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_AND_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_UBYTES = "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
_FAKE = {"image_size": (3, 32, 32), "num_classes": 4}


@dataclass(frozen=True)
class TorchvisionSet:
    """How a data set of torchvision is built, and what a machine without a network needs."""

    splits: dict[str, dict[str, Any]]
    """Constructor arguments by split; an empty name leaves the split to fmx."""
    archives: str = ""
    """The files that torchvision downloads"""
    folder: str = ""
    """Where it looks for them, below the download folder"""
    downloads: bool = True


TORCHVISION_SETS: dict[str, TorchvisionSet] = {
    "MNIST": TorchvisionSet(_TRAIN_FLAG, _UBYTES, "MNIST/raw"),
    "FashionMNIST": TorchvisionSet(_TRAIN_FLAG, _UBYTES, "FashionMNIST/raw"),
    "KMNIST": TorchvisionSet(_TRAIN_FLAG, _UBYTES, "KMNIST/raw"),
    "USPS": TorchvisionSet(_TRAIN_FLAG, "usps.bz2 and usps.t.bz2"),
    "CIFAR100": TorchvisionSet(_TRAIN_FLAG, "cifar-100-python.tar.gz"),
    "SVHN": TorchvisionSet(_TRAIN_AND_TEST, "train_32x32.mat and test_32x32.mat"),
    "STL10": TorchvisionSet(_TRAIN_AND_TEST, "stl10_binary.tar.gz"),
    "Food101": TorchvisionSet(_TRAIN_AND_TEST, "food-101.tar.gz"),
    "GTSRB": TorchvisionSet(_TRAIN_AND_TEST, "GTSRB-Training_fixed.zip, GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip", "gtsrb"),
    "Flowers102": TorchvisionSet(_THREE, "102flowers.tgz, imagelabels.mat and setid.mat", "flowers-102"),
    "DTD": TorchvisionSet(_THREE, "dtd-r1.0.1.tar.gz", "dtd"),
    "FGVCAircraft": TorchvisionSet(_THREE, "fgvc-aircraft-2013b.tar.gz"),
    "OxfordIIITPet": TorchvisionSet(
        {"train": {"split": "trainval"}, "test": {"split": "test"}}, "images.tar.gz and annotations.tar.gz", "oxford-iiit-pet"
    ),
    "EuroSAT": TorchvisionSet({"": {}}, "EuroSAT.zip", "eurosat"),
    "FakeData": TorchvisionSet({"train": {**_FAKE, "size": 200}, "test": {**_FAKE, "size": 60, "random_offset": 200}}, downloads=False),
}


def ensure_downloaded(data: str) -> None:
    """Download a named data set that is not on this disk yet.

    Raises:
        DataError: there is no network; the hint says which archive to put where.
    """
    if data == "cifar10":
        _ensure_cifar10()
    if data.startswith(PREFIX) and not (torchvision_folder(data) / MANIFEST).is_file():
        _write_torchvision(data.removeprefix(PREFIX), torchvision_folder(data))


def _ensure_cifar10() -> None:
    try:
        find_cifar10()
    except DataError as absent:
        from torchvision.datasets import CIFAR10

        try:
            CIFAR10(str(data_folder()), download=True)
        except (URLError, OSError, RuntimeError) as error:
            raise DataError(f"CIFAR-10 could not be downloaded ({getattr(error, 'reason', error)}).", hint=absent.hint) from error


def _write_torchvision(name: str, target: Path) -> None:
    """Write a data set as PNG files and a manifest; the folder appears whole or not at all."""
    spec = TORCHVISION_SETS.get(name)
    if spec is None:
        near = nearest_names(name, list(TORCHVISION_SETS))
        raise DataError(f"{PREFIX}{name} is not known.", hint=f"Did you mean {near}?" if near else f"Known: {', '.join(TORCHVISION_SETS)}.")
    opened = {split: _open(name, spec, arguments) for split, arguments in spec.splits.items()}
    with storage.new_folder(target) as folder:
        rows = [row for split, rows in opened.items() for row in _write_images(folder, split, rows)]
        with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label", "split"), *rows])


def _open(name: str, spec: TorchvisionSet, arguments: dict[str, Any]) -> Any:
    """Build torchvision's data set; it has no common type that knows classes and length."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise missing_extra("train", f"{PREFIX}{name}") from error
    if not spec.downloads:
        return getattr(datasets, name)(**arguments)
    root = data_folder() / "torchvision-archives"
    root.mkdir(parents=True, exist_ok=True)
    try:
        return getattr(datasets, name)(str(root), download=True, **arguments)
    except ImportError as error:  # .mat files need scipy, which comes with scikit-learn
        raise missing_extra("samples", f"{PREFIX}{name}") from error
    except (URLError, OSError, RuntimeError) as error:
        reason = str(getattr(error, "reason", error)).strip().splitlines()
        raise DataError(
            f"{PREFIX}{name} could not be downloaded ({reason[-1] if reason else type(error).__name__}).",
            hint=f"Offline, put {spec.archives} into {root / spec.folder} and run the command again.",
        ) from error


def _write_images(folder: Path, split: str, rows: Any) -> Iterator[tuple[str, str, str]]:
    """Write the images of a split, and give their manifest rows (path, label, split)."""
    images = folder / (split or "images")
    images.mkdir()
    classes = getattr(rows, "classes", None)
    with progress(f"writing {split or 'images'}", len(rows)) as advance:
        for number in range(len(rows)):
            image, label = rows[number]
            file = images / f"{number:06d}.png"
            image.save(file, compress_level=1)
            yield f"{images.name}/{file.name}", str(classes[label]) if classes else str(label), split
            advance(1)
