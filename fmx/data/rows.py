"""Labelled items decoded into one array of rows, in parallel, with bad files named, counted and skipped."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fmx.contract import Fingerprint, ImageInput
from fmx.data.parallel import in_threads
from fmx.data.source import SPLITS, Item, Source
from fmx.errors import DataError, InputError, SurroundingsError
from fmx.images import measured_row

MOST_UNREADABLE = 0.05
"""Share of unreadable files above which nothing is trained or measured."""

IN_MEMORY_BYTES = 4 << 30
"""Rows above this size live in an unnamed temporary file that the operating system pages in and out."""


@dataclass(frozen=True)
class Rows:
    """Decoded rows of one split, in the items' order without the unreadable ones."""

    images: np.ndarray
    """uint8 [n, height, width, 3]"""
    labels: np.ndarray
    """int64 [n]"""
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    """(name, reason) of every file that could not be read"""
    fingerprint: Fingerprint
    digests: tuple[bytes, ...] = ()
    """SHA-256 of every file's bytes, whatever its label: equal ones are copies"""
    facts: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the files, by the feature of `fmx.drift`: float64 [n] each"""

    def __len__(self) -> int:
        return len(self.labels)


def read_splits(source: Source, spec: ImageInput, names: tuple[str, ...] = SPLITS) -> dict[str, Rows]:
    """Decode splits of a source with the one preprocessing function.

    Raises:
        DataError: more than 5 % of all their files cannot be read, or none of a split's can.
    """
    splits = {name: _decode(source.splits[name], spec, f"reading {name} images") for name in names}
    _check_skipped([fault for rows in splits.values() for fault in rows.skipped], sum(len(source.splits[name]) for name in names))
    for name, rows in splits.items():
        if not len(rows):
            raise DataError(f"{source.name}: no {name} image can be read.", hint="Add images to this split, or repair those that are there.")
    return splits


def _decode(items: list[Item], spec: ImageInput, what: str) -> Rows:
    images = _allocate((len(items), spec.height, spec.width, 3))
    pixels = np.ones(len(items), dtype=np.int64)
    digests: list[bytes] = [b""] * len(items)
    labelled: list[bytes] = [b""] * len(items)
    reasons: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            data = items[index].read()
            images[index], pixels[index] = measured_row(data, spec)
            digest = hashlib.sha256(data)
            digests[index] = digest.digest()
            digest.update(items[index].label.to_bytes(8, "little"))
            labelled[index] = digest.digest()
        except (InputError, OSError) as error:
            reasons[index] = error.message if isinstance(error, InputError) else f"it cannot be read ({error.strerror})"

    in_threads(decode, len(items), what)
    kept = np.array([index for index in range(len(items)) if index not in reasons], dtype=np.int64)
    return Rows(
        images=_compact(images, kept),
        labels=np.array([items[index].label for index in kept], dtype=np.int64),
        names=tuple(items[index].name for index in kept),
        skipped=tuple((items[index].name, reasons[index]) for index in sorted(reasons)),
        fingerprint=Fingerprint(rows=len(kept), sha256=hashlib.sha256(b"".join(labelled[index] for index in kept)).hexdigest()),
        digests=tuple(digests[index] for index in kept),
        facts={"size": np.log2(pixels[kept]) / 2},
    )


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    size_bytes = int(np.prod(shape))
    if size_bytes <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype=np.uint8)
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file.fileno(), size_bytes, folder)
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _reserve(file: int, size_bytes: int, folder: Path) -> None:
    """Really allocate the file: a disk that fills up under a sparse mapped file kills the process with SIGBUS."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(file, 0, size_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise SurroundingsError(
            f"The decoded images need {size_bytes / 2**30:.1f} GiB in {folder}, which is not free.",
            hint="Free some space, choose another disk with TMPDIR, or train at a smaller --size.",
        ) from error


def _compact(images: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Move the kept rows to the front in place: a copy of rows on disk might not fit into memory."""
    for place, index in enumerate(kept):
        if place != index:
            images[place] = images[index]
    return images[: len(kept)]


def _check_skipped(skipped: list[tuple[str, str]], total: int) -> None:
    if len(skipped) > MOST_UNREADABLE * total:
        first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        raise DataError(
            f"{len(skipped)} of {total} images cannot be read (more than {MOST_UNREADABLE:.0%}): {first}",
            hint="Repair or remove these files, then run the command again.",
        )
