"""Labelled items decoded into one array of rows, in parallel, with bad inputs named, counted and skipped."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fmx.contract import Fingerprint
from fmx.data.parallel import in_threads
from fmx.data.source import SPLITS, Item, Source
from fmx.errors import DataError, InputError, SurroundingsError
from fmx.tasks import Task

MOST_UNREADABLE = 0.05
"""Share of unreadable files above which nothing is trained or measured."""

IN_MEMORY_BYTES = 4 << 30
"""Rows above this size live in an unnamed temporary file that the operating system pages in and out."""


@dataclass(frozen=True)
class Rows:
    """Decoded rows of one split, in the items' order without the unreadable ones."""

    values: np.ndarray
    """[n, *row_shape] of the task"""
    labels: np.ndarray
    """int64 [n]"""
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    """(name, reason) of every file that could not be read"""
    fingerprint: Fingerprint
    digests: tuple[bytes, ...] = ()
    """SHA-256 of every file's bytes, whatever its label: equal ones are copies"""
    facts: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the inputs, by the feature of `fmx.drift`: float64 [n] each"""
    items: tuple[Item, ...] = ()
    """What the rows were read from, for reports"""

    def __len__(self) -> int:
        return len(self.labels)


def read_splits(source: Source, task: Task, names: tuple[str, ...] = SPLITS) -> dict[str, Rows]:
    """Decode splits of a source with the task's one preprocessing function.

    Raises:
        DataError: more than 5 % of all their files cannot be read, or none of a split's can.
    """
    splits = {name: _decode(source.splits[name], task, f"reading {name} {task.noun}s") for name in names}
    _check_skipped(task.noun, [fault for rows in splits.values() for fault in rows.skipped], sum(len(source.splits[name]) for name in names))
    for name, rows in splits.items():
        if not len(rows):
            raise DataError(
                f"{source.name}: no {name} {task.noun} can be read.", hint=f"Add {task.noun}s to this split, or repair those that are there."
            )
    return splits


def _decode(items: list[Item], task: Task, what: str) -> Rows:
    values = _allocate((len(items), *task.row_shape), task.dtype)
    facts: list[Mapping[str, float]] = [{}] * len(items)
    digests: list[bytes] = [b""] * len(items)
    labelled: list[bytes] = [b""] * len(items)
    reasons: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            data = items[index].read()
            values[index], facts[index], _ = task.decode(data)
            digest = hashlib.sha256(data)
            digests[index] = digest.digest()
            digest.update(items[index].label.to_bytes(8, "little"))
            labelled[index] = digest.digest()
        except (InputError, OSError) as error:
            reasons[index] = error.message if isinstance(error, InputError) else f"it cannot be read ({error.strerror})"

    in_threads(decode, len(items), what)
    kept = np.array([index for index in range(len(items)) if index not in reasons], dtype=np.int64)
    return Rows(
        values=_compact(values, kept),
        labels=np.array([items[index].label for index in kept], dtype=np.int64),
        names=tuple(items[index].name for index in kept),
        skipped=tuple((items[index].name, reasons[index]) for index in sorted(reasons)),
        fingerprint=Fingerprint(rows=len(kept), sha256=hashlib.sha256(b"".join(labelled[index] for index in kept)).hexdigest()),
        digests=tuple(digests[index] for index in kept),
        facts={name: np.array([facts[index][name] for index in kept]) for name in (facts[kept[0]] if len(kept) else ())},
        items=tuple(items[index] for index in kept),
    )


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    if size_bytes <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype=dtype)
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file.fileno(), size_bytes, folder)
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


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
            f"The decoded rows need {size_bytes / 2**30:.1f} GiB in {folder}, which is not free.",
            hint="Free some space, choose another disk with TMPDIR, or train at a smaller --size or --max-length.",
        ) from error


def _compact(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Move the kept rows to the front in place: a copy of rows on disk might not fit into memory."""
    for place, index in enumerate(kept):
        if place != index:
            values[place] = values[index]
    return values[: len(kept)]


def _check_skipped(noun: str, skipped: list[tuple[str, str]], total: int) -> None:
    if len(skipped) > MOST_UNREADABLE * total:
        first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        raise DataError(
            f"{len(skipped)} of {total} {noun}s cannot be read (more than {MOST_UNREADABLE:.0%}): {first}",
            hint="Repair or remove these, then run the command again.",
        )
