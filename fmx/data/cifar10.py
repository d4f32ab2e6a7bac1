"""CIFAR-10 (Krizhevsky 2009) in its Python archive's layout, read without torch: 50,000 training and 10,000 test rows.

Part of the training rows is held out for validation; the test rows are the archive's own. finetune/downloads.py fetches the archive.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fmx import storage
from fmx.data.source import Item, Source, split_items
from fmx.errors import DataError

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
VALIDATION_SHARE = 0.1


def data_folder() -> Path:
    """Return where downloaded data sets live: `FMX_DATA`, or `data/` in `FMX_HOME`."""
    return Path(os.environ.get("FMX_DATA") or storage.home() / "data")


def find_cifar10() -> Path:
    """Return the folder with the batches.

    Raises:
        DataError: it is not on this disk; the hint says which archive to put where.
    """
    folder = data_folder() / FOLDER
    if not (folder / TRAIN_FILES[0]).is_file():
        raise DataError(
            f"CIFAR-10 is not at {folder}.",
            hint=f"fmx train downloads it where there is a network. Offline, put {ARCHIVE} (Python version) into {data_folder()} and unpack it.",
        )
    return folder


def open_cifar10(folder: Path, seed: int) -> Source:
    """Open the batches. Raises: `DataError` for a missing or damaged batch."""
    labels = tuple(str(name) for name in _read(folder / "batches.meta", "label_names"))
    train = [item for name in TRAIN_FILES for item in _items(folder / name)]
    splits = split_items(train, len(labels), seed, {"validation": VALIDATION_SHARE})
    return Source("cifar10", labels, {**splits, "test": _items(folder / "test_batch")}, suggested_size=64)


def _items(path: Path) -> list[Item]:
    pixels = np.asarray(_read(path, "data"), dtype=np.uint8).reshape(-1, 3, 32, 32)
    labels = _read(path, "labels")
    return [Item(f"{path.name}[{i}]", int(label), functools.partial(_png, pixels[i])) for i, label in enumerate(labels)]


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class _ArraysOnly(pickle.Unpickler):
    """The archive is pickled; nothing but numpy arrays may come out of it."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        if name in self.ALLOWED and module.partition(".")[0] in ("numpy", "_codecs"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data file")


@functools.lru_cache(maxsize=8)
def _content(path: Path) -> dict[str, Any]:
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is missing or damaged ({error}).", hint=f"Unpack {ARCHIVE} again.") from error
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def _read(path: Path, key: str) -> Any:
    content = _content(path)
    if key not in content:
        raise DataError(f"{path} holds no {key}.", hint=f"Unpack {ARCHIVE} again.")
    return content[key]
