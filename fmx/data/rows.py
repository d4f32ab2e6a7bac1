"""Labelled items decoded into one array of rows, in parallel, with bad files named, counted and skipped."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmx.contract import Fingerprint, ImageInput
from fmx.data.source import SPLITS, Item, Source
from fmx.errors import DataError, InputError
from fmx.host import usable_cpus
from fmx.images import image_row
from fmx.progress import progress

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
    digests: list[bytes] = [b""] * len(items)
    reasons: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            data = items[index].read()
            images[index] = image_row(data, spec)
            digests[index] = hashlib.sha256(data + items[index].label.to_bytes(8, "little")).digest()
        except (InputError, OSError) as error:
            reasons[index] = error.message if isinstance(error, InputError) else f"it cannot be read ({error.strerror})"

    _in_threads(decode, len(items), what)
    kept = np.array([index for index in range(len(items)) if index not in reasons], dtype=np.int64)
    return Rows(
        images=images[kept] if reasons else images,
        labels=np.array([items[index].label for index in kept], dtype=np.int64),
        names=tuple(items[index].name for index in kept),
        skipped=tuple((items[index].name, reasons[index]) for index in sorted(reasons)),
        fingerprint=Fingerprint(rows=len(kept), sha256=hashlib.sha256(b"".join(digests[index] for index in kept)).hexdigest()),
    )


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    size_bytes = int(np.prod(shape))
    if size_bytes <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile(dir=Path(tempfile.gettempdir())) as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _in_threads(work: Callable[[int], None], count: int, what: str) -> None:
    """Pillow releases the interpreter's lock while it decodes, so threads are enough."""
    pool = ThreadPoolExecutor(usable_cpus())
    try:
        with progress(what, count) as advance:
            for _ in pool.map(work, range(count)):
                advance(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _check_skipped(skipped: list[tuple[str, str]], total: int) -> None:
    if len(skipped) > MOST_UNREADABLE * total:
        first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        raise DataError(
            f"{len(skipped)} of {total} images cannot be read (more than {MOST_UNREADABLE:.0%}): {first}",
            hint="Repair or remove these files, then run the command again.",
        )
