"""Copies among rows: the same bytes, and nearly the same picture (re-encoded, resized), without comparing each with each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmx.data.check.classes import label_name
from fmx.data.check.findings import Finding, Severity, finding
from fmx.data.check.thumbnails import difference_hashes
from fmx.data.source import Item, Source

MOST_BITS = 12
"""Bits of 64 in which the hashes of a candidate pair may differ"""
MOST_DIFFERENCE = 4.5
"""Mean absolute difference of two thumbnails, in grey levels, above which they never show the same; the nearest two different digits of
scikit-learn's 1,797 are 5.9 apart"""
NOISE, MOST_RELATIVE_DIFFERENCE = 0.6, 0.09
"""The same where there is less contrast, as what any compression adds plus a share of the contrast: two dark, even pictures are not the same
for being dark. Copies at JPEG quality 20 or a fifth of the width stay below."""
LEAST_CONTRAST = 2.0
"""Standard deviation of a thumbnail below which it shows too little to be told from others"""
_BANDS = 4
_WINDOW = 12
"""Neighbours in each order that an image is compared with: a bound for crowded bands, such as those of black borders"""
_BITS_OF = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)


@dataclass(frozen=True)
class Table:
    """The images or texts that are looked through, by position."""

    names: Sequence[str]
    splits: Sequence[str]
    labels: Sequence[str]
    digests: Sequence[bytes]
    """SHA-256 of the bytes; empty for files that could not be opened"""
    noun: str = "image"
    """What the rows are"""

    def describe(self, index: int) -> str:
        """Name a row with its split, where the name does not say it, and its label."""
        return f"{self.names[index]} ({self.splits[index]}, {self.labels[index]})"

    def describe_pair(self, one: int, other: int) -> str:
        """Name two rows."""
        return f"{self.describe(one)} and {self.describe(other)}"


def table_of(source: Source, items: Sequence[tuple[str, Item]], digests: Sequence[bytes], noun: str = "image") -> Table:
    """Make the table of a source's items.

    Args:
        source: labelled data.
        items: of it, each with its split.
        digests: SHA-256 of each item's bytes; empty for those that could not be read.
        noun: what the rows are.
    """
    return Table(
        names=[item.name for _, item in items],
        splits=[split for split, _ in items],
        labels=[label_name(source, item) for _, item in items],
        digests=digests,
        noun=noun,
    )


def exact_findings(table: Table, *, within: bool = True) -> tuple[Finding, ...]:
    """Report rows with the same bytes: in two splits, under two labels, and (with `within`) inside one split and label."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(table.digests):
        if digest:
            same[digest].append(index)
    found: dict[str, list[str]] = {"copies-across-splits": [], "copies-across-labels": [], "copies": []}
    for copies in same.values():
        if len(copies) < 2:
            continue
        across_splits, across_labels = _two(table.splits, copies), _two(table.labels, copies)
        if across_splits:
            found["copies-across-splits"].append(table.describe_pair(*across_splits))
        if across_labels:
            found["copies-across-labels"].append(table.describe_pair(*across_labels))
        if within and not across_splits and not across_labels:
            found["copies"].append(table.describe_pair(copies[0], copies[1]))
    return tuple(one for kind, names in found.items() for one in finding(kind, names, noun=table.noun))


def near_findings(table: Table, pairs: np.ndarray, severity: Severity | None = None, *, within: bool = True) -> tuple[Finding, ...]:
    """Report pairs that show nearly the same; those with the same bytes are left to `exact_findings`.

    Args:
        table: of all images.
        pairs: int64 [pairs, 2] positions in it, from `near_pairs`.
        severity: instead of the kinds' own.
        within: report pairs inside one split too.
    """
    found: dict[str, list[str]] = {"near-copies-across-splits": [], "near-copies-across-labels": [], "near-copies": []}
    for one, other in pairs.tolist():
        if table.digests[one] and table.digests[one] == table.digests[other]:
            continue
        across_splits, across_labels = table.splits[one] != table.splits[other], table.labels[one] != table.labels[other]
        if across_splits:
            found["near-copies-across-splits"].append(table.describe_pair(one, other))
        if across_labels and (within or across_splits):
            found["near-copies-across-labels"].append(table.describe_pair(one, other))
        if within and not across_splits and not across_labels:
            found["near-copies"].append(table.describe_pair(one, other))
    return tuple(one for kind, names in found.items() for one in finding(kind, names, severity))


def near_pairs(thumbnails: np.ndarray) -> np.ndarray:
    """Find pairs of images that show nearly the same.

    Candidates share 16 of the 64 bits of their hash in one of four bands and differ in few of the others; the thumbnails decide.

    Args:
        thumbnails: uint8 [n, 32, 32].

    Returns:
        int64 [pairs, 2], each pair once, the lower position first.
    """
    contrast = _contrast(thumbnails)
    distinct = np.flatnonzero(contrast >= LEAST_CONTRAST)
    pairs = distinct[_candidates(difference_hashes(thumbnails[distinct]))]
    most = np.minimum(MOST_DIFFERENCE, NOISE + MOST_RELATIVE_DIFFERENCE * contrast[pairs].min(axis=1, initial=255.0))
    return np.asarray(pairs[_difference(thumbnails, pairs) <= most])


def _candidates(hashes: np.ndarray) -> np.ndarray:
    """Sort by each band, then by each of the others, and pair neighbours that share the first: int64 [pairs, 2]."""
    count = len(hashes)
    bands = hashes.view(np.uint16).reshape(count, _BANDS)
    found: list[np.ndarray] = []
    for first in range(_BANDS):
        rest = [band for band in range(_BANDS) if band != first]
        for turn in range(len(rest)):
            keys = [first, *rest[turn:], *rest[:turn]]
            order = np.lexsort([bands[:, band] for band in reversed(keys)])  # the last key counts most
            found += _neighbours(order, bands[order, first], hashes[order])
    if not found:
        return np.empty((0, 2), np.int64)
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // count, codes % count], axis=1)


def _neighbours(order: np.ndarray, band: np.ndarray, hashes: np.ndarray) -> list[np.ndarray]:
    """Pair each image with the next few of an order, coded as lower position * count + higher position."""
    found = []
    for step in range(1, min(_WINDOW, len(order) - 1) + 1):
        left = np.flatnonzero(band[:-step] == band[step:])
        if not len(left):
            break
        bits = _BITS_OF[(hashes[left] ^ hashes[left + step]).view(np.uint16)].reshape(-1, _BANDS).sum(axis=1)
        left = left[bits <= MOST_BITS]
        one, other = order[left], order[left + step]
        found.append(np.minimum(one, other) * len(order) + np.maximum(one, other))
    return found


def _contrast(thumbnails: np.ndarray) -> np.ndarray:
    """Return the standard deviation of every thumbnail: float64 [n]."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    return np.concatenate([flat[start : start + 4096].std(axis=1, dtype=np.float32) for start in range(0, len(flat), 4096)] or [np.empty(0)])


def _difference(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference of every pair, in grey levels: float64 [pairs]."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), 4096):
        one, other = flat[pairs[start : start + 4096, 0]], flat[pairs[start : start + 4096, 1]]
        found[start : start + 4096] = (np.maximum(one, other) - np.minimum(one, other)).mean(axis=1, dtype=np.float32)
    return found


def _two(values: Sequence[str], copies: list[int]) -> tuple[int, int] | None:
    """Return two of the copies that differ in a value, if there are."""
    other = next((index for index in copies if values[index] != values[copies[0]]), None)
    return None if other is None else (copies[0], other)
