"""Labelled items decoded into one array of rows, in parallel, with bad inputs named, counted and skipped."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fmx.contract import Fingerprint
from fmx.data.parallel import in_threads
from fmx.data.source import SPLITS, Item, Source
from fmx.entities import IGNORED, Span
from fmx.errors import DataError, InputError, SurroundingsError
from fmx.tasks import Piece, Task

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
    """int64 [n]; of tokens [n, max_length], `fmx.entities.IGNORED` where a position bears no tag; of several labels [n, labels], 1 or 0"""
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
    has_several: bool = False
    """Whether several labels may be said of a row"""
    grades: tuple[float, ...] = ()
    """What labels are worth where rows have scores"""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_tags(self) -> bool:
        """Whether units of texts are answered, and not rows."""
        return self.labels.ndim > 1 and not self.has_several

    @property
    def has_units(self) -> bool:
        """Whether more is answered of a row than one label."""
        return self.labels.ndim > 1

    @property
    def scores(self) -> np.ndarray:
        """Of rows that have one: float64 [n]."""
        return np.array([item.score for item in self.items], np.float64)

    @property
    def judged(self) -> str:
        """What a budget and the choice of an epoch are in."""
        if self.grades:
            return "the scores' correlation"
        return "the labels' F1" if self.has_several else "the entities' F1" if self.has_tags else "accuracy"

    def wholes(self) -> list[Item]:
        """Give of every row the item that it is of: itself, or the text that it is a piece of."""
        return [item.whole or item for item in self.items]

    def spread(self, most: int) -> np.ndarray:
        """Choose at most so many rows, evenly spread, for they lie in the order of their classes; of texts with tags whole ones: int64 indices."""
        if not self.has_tags or len(self) <= most:
            return np.unique(np.linspace(0, len(self) - 1, min(len(self), most)).astype(int))
        names = [item.name for item in self.wholes()]
        every = -(-len(self) // most)
        chosen = {name for place, name in enumerate(dict.fromkeys(names)) if place % every == 0}
        return np.array([i for i, name in enumerate(names) if name in chosen], np.int64)

    @property
    def targets(self) -> np.ndarray:
        """What is right, of everything that is to be answered: int64 [m], of rows, of the units of all rows, or of every label of all rows."""
        return self.labels[self.labels != IGNORED] if self.has_units else self.labels

    def picked(self, answers: np.ndarray) -> np.ndarray:
        """Give the answers that `targets` speaks of, float [m, labels], out of those of all rows, [n, ..., labels]."""
        return answers[self.labels != IGNORED] if self.has_units else answers

    def taken(self, index: np.ndarray) -> Rows:
        """Give some of the rows, int64 indices, in that order; the fingerprint stays that of all."""
        beside = {"names": self.names, "digests": self.digests, "items": self.items}
        kept: dict[str, Any] = {name: tuple(all_of[i] for i in index) if all_of else () for name, all_of in beside.items()}
        facts = {name: values[index] for name, values in self.facts.items()}
        return replace(self, values=self.values[index], labels=self.labels[index], facts=facts, **kept)

    def sequences(self, picked: np.ndarray) -> list[np.ndarray]:
        """Cut what was picked, [m, ...], into the texts that it is of, in order; the pieces of one text are put together."""
        ends = np.cumsum((self.labels != IGNORED).sum(axis=1))
        names = [item.name for item in self.wholes()]
        begins = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
        return np.split(picked, [int(ends[i - 1]) for i in begins[1:]])


def read_splits(source: Source, task: Task, names: tuple[str, ...] = SPLITS) -> dict[str, Rows]:
    """Decode splits of a source with the task's one preprocessing function.

    Raises:
        DataError: more than 5 % of all their files cannot be read, or none of a split's can.
    """
    splits = {name: _decode([*_pieces_of(source.splits[name], task)], task, f"reading {name} {task.noun}s") for name in names}
    skipped = [fault for rows in splits.values() for fault in rows.skipped]
    _check_skipped(task.noun, skipped, len(skipped) + sum(map(len, splits.values())))
    for name, rows in splits.items():
        if not len(rows):
            raise DataError(
                f"{source.name}: no {name} {task.noun} can be read.", hint=f"Add {task.noun}s to this split, or repair those that are there."
            )
    return splits


def _pieces_of(items: list[Item], task: Task) -> Iterator[Item]:
    """Cut the items that are longer than the model's window, with their entities, where the task is told of all of a text."""
    for item in items:
        if not task.cuts:
            yield item
            continue
        try:
            pieces = task.pieces(item.read())
        except (InputError, OSError):
            yield item  # decoding it tells what is wrong with it
            continue
        yield item if len(pieces) == 1 else from_piece(item, pieces[0], 0)
        for number, piece in enumerate(pieces[1:], start=1):
            yield from_piece(item, piece, number)


def from_piece(item: Item, piece: Piece, number: int) -> Item:
    """Give a piece of an item, with its share of the entities."""
    end = piece.start + len(piece.data.decode())
    cut = [Span(label, max(low, piece.start) - piece.start, min(high, end) - piece.start) for label, low, high in item.spans]
    spans = tuple(span for span in cut if span.start < span.end)
    own = None if piece.own is None else (piece.own[0] - piece.start if number else 0, piece.own[1] - piece.start)
    name = f"{item.name}, part {number + 1}"
    return replace(item, name=name, whole=item, read=lambda: piece.data, size=lambda: len(piece.data), spans=spans, own=own)


def _decode(items: list[Item], task: Task, what: str) -> Rows:
    values = _allocate((len(items), *task.row_shape), task.dtype)
    facts: list[Mapping[str, float]] = [{}] * len(items)
    digests: list[bytes] = [b""] * len(items)
    labelled: list[bytes] = [b""] * len(items)
    targets: list[np.ndarray] = [np.empty(0, np.int64)] * len(items)
    reasons: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            data = items[index].read()
            values[index], facts[index], *_ = task.decode(data)
            digest = hashlib.sha256(data)
            digests[index] = digest.digest()
            targets[index] = task.target(items[index], data)
            digest.update(targets[index].astype("<i8").tobytes())
            digest.update(b"" if items[index].score is None else repr(items[index].score).encode())
            labelled[index] = digest.digest()
        except (InputError, OSError) as error:
            reasons[index] = error.message if isinstance(error, InputError) else f"it cannot be read ({error.strerror})"

    in_threads(decode, len(items), what)
    kept = np.array([index for index in range(len(items)) if index not in reasons], dtype=np.int64)
    return Rows(
        values=_compact(values, kept),
        labels=np.stack([targets[index] for index in kept]) if len(kept) else np.empty(0, np.int64),
        names=tuple(items[index].name for index in kept),
        skipped=tuple((items[index].name, reasons[index]) for index in sorted(reasons)),
        fingerprint=Fingerprint(rows=len(kept), sha256=hashlib.sha256(b"".join(labelled[index] for index in kept)).hexdigest()),
        digests=tuple(digests[index] for index in kept),
        facts={name: np.array([facts[index][name] for index in kept]) for name in (facts[kept[0]] if len(kept) else ())},
        items=tuple(items[index] for index in kept),
        has_several=task.has_several,
        grades=task.grades,
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
