"""The interface of a source, and the seeded stratified split that sources without their own use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from fmx.entities import Span
from fmx.errors import DataError

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
"""How people name the splits, and how we do."""

HELD_OUT = 0.2
"""Share of the rows that a split takes for validation, and again for test."""
_NAMES_SHOWN = 20
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class Item:
    """One labelled input: its name for messages, its label's index, and how to get its encoded bytes."""

    name: str
    label: int
    read: Callable[[], bytes]
    group: str | None = None
    """Rows of one group (a patient, a video, a house) never get into different splits."""
    size: Callable[[], int] | None = None
    """How many bytes `read` gives, known without reading them; None where it is not."""
    likeness: bytes | None = None
    """Rows of one likeness, such as texts that differ in case alone, never get into different splits either."""
    query: str | None = None
    """Rows of one query are candidates that are ranked against each other; they never get into different splits."""
    several: tuple[int, ...] = ()
    """The labels that are said of a text, where they may be several"""
    score: float | None = None
    """Of a pair that has one, whose label is the nearest grade"""
    spans: tuple[Span, ...] = ()
    """The entities of a text"""
    whole: Item | None = None
    """Of a piece of a longer text: the text"""
    own: tuple[int, int] | None = None
    """Of a piece of a longer text: from where to where its tags count, in its code points; the rest is another piece's. None for all of it."""


@dataclass(frozen=True)
class Source:
    """Labelled data in three splits. Labels come from the training rows alone."""

    name: str
    labels: tuple[str, ...]
    splits: dict[str, list[Item]]
    suggested_size: int = 224
    """Side in pixels that `fmx train` uses unless told: small images gain nothing from being blown up to 224."""
    may_flip: bool = True
    """Whether a mirrored image keeps its label; false for digits and letters."""
    notes: tuple[str, ...] = field(default=())
    has_several: bool = False
    """Whether an item may have several labels."""
    has_scores: bool = False
    """Whether the labels are grades of items' scores."""
    has_entities: bool = False
    """Whether the items are texts with spans, and the labels tags."""


def sort_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Put label names in order: by number when all are whole numbers (9 before 10), else by letters."""
    distinct = set(names)
    if all(_WHOLE.fullmatch(name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def label_items(rows: dict[str, list[tuple[str, Item]]], labels: tuple[str, ...], where: str) -> dict[str, list[Item]]:
    """Give items the index of their label's name, split by split.

    Raises:
        DataError: a held-out split has a class that the training rows do not have.
    """
    index = {label: i for i, label in enumerate(labels)}
    for split, found in rows.items():
        unknown = sorted({label for label, _ in found} - set(index))
        if unknown:
            raise unknown_classes(f"{where} ({split})", unknown)
    return {split: [replace(item, label=index[label]) for label, item in found] for split, found in rows.items()}


def unknown_classes(where: str, unknown: list[str]) -> DataError:
    """Build the error for classes of a held-out split that training never sees."""
    return DataError(
        f"{where} has classes that the training rows do not have: {_first_names(unknown)}.",
        hint="Labels come from the training rows; add the class there or remove it here.",
    )


def _first_names(names: list[str]) -> str:
    """List names, not all where a column of something else was taken for the labels."""
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")


def check_classes(items: list[Item], labels: tuple[str, ...], least: int, where: str, noun: str = "images") -> None:
    """Check that there is something to learn.

    Args:
        items: training rows.
        labels: of the training rows.
        least: rows that each class needs.
        where: what messages call the data.
        noun: what messages call the rows.

    Raises:
        DataError: no rows, one class, or a class with fewer than `least` rows.
    """
    if not items:
        raise DataError(
            f"{where} holds no {noun}.", hint="Put one folder of images a class into it." if noun == "images" else f"Add labelled {noun} to it."
        )
    if len(labels) < 2:
        raise DataError(f"{where} holds one class ({labels[0]}); a classifier needs two.", hint=f"Add {noun} of a second class.")
    counts = np.bincount([item.label for item in items], minlength=len(labels))
    thin = [f"{label} ({count})" for label, count in zip(labels, counts, strict=True) if count < least]
    if thin:
        raise DataError(f"{where} has too few {noun} in: {_first_names(thin)}.", hint=f"Each class needs at least {least}; add {noun} or remove it.")


def split_items(items: list[Item], classes: int, seed: int, parts: dict[str, float]) -> dict[str, list[Item]]:
    """Deal items into parts, class by class in the same proportions, as a function of their order and the seed.

    Args:
        items: items in a defined order.
        classes: number of labels.
        seed: of the shuffle.
        parts: share a part, such as `{"validation": 0.2, "test": 0.2}`; the rest is `train`. A class gives each part at least one row.
    """
    random = np.random.default_rng(seed)
    labels = np.array([item.label for item in items])
    left = [random.permutation(np.flatnonzero(labels == label)) for label in range(classes)]
    sizes = np.array([len(index) for index in left])
    dealt: dict[str, list[Item]] = {}
    for name, share in parts.items():
        counts = apportion(sizes, share)
        dealt[name] = [items[i] for i in sorted(i for index, count in zip(left, counts, strict=True) for i in index[:count])]
        left = [index[count:] for index, count in zip(left, counts, strict=True)]
    return {"train": [items[i] for i in sorted(i for index in left for i in index)], **dealt}


def apportion(sizes: np.ndarray, share: float) -> np.ndarray:
    """Take a share of every class, rounded by the largest-remainder rule so that the total is the share of the whole, rounded up.

    Args:
        sizes: int [classes], rows of every class.
        share: between 0 and 1. A class gives at least one row.
    """
    exact = sizes * share
    counts = np.maximum(1, np.floor(exact).astype(int))
    remainders = np.argsort(-(exact - np.floor(exact)), kind="stable")
    for label in remainders[: max(0, math.ceil(sizes.sum() * share) - int(counts.sum()))]:
        counts[label] += 1
    return np.asarray(counts)
