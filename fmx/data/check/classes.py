"""The classes of a source: how many rows each has in which split, and which have too few."""

from __future__ import annotations

from collections import Counter

from fmx.data.check.findings import Finding, finding
from fmx.data.source import Item, Source

IMBALANCED = 10
"""How many times more training rows the largest class may have than another"""


def count_rows(source: Source) -> dict[str, tuple[int, ...]]:
    """Count the rows of every label, by split."""
    counted = {split: Counter(item.label for item in items) for split, items in source.splits.items()}
    return {split: tuple(found[label] for label in range(len(source.labels))) for split, found in counted.items()}


def label_name(source: Source, item: Item) -> str:
    """Name an item's label, also one that the source does not know."""
    return source.labels[item.label] if 0 <= item.label < len(source.labels) else f"class {item.label}"


def class_findings(source: Source, counts: dict[str, tuple[int, ...]], noun: str = "image") -> list[Finding]:
    """Report labels that the source does not know, and classes with no held-out rows or few training rows.

    Args:
        source: labelled data.
        counts: of its rows, from `count_rows`.
        noun: what the rows are.
    """
    unknown = [item.name for items in source.splits.values() for item in items if not 0 <= item.label < len(source.labels)]
    missing = [
        f"{label} ({split})" for split in counts if split != "train" for label, count in zip(source.labels, counts[split], strict=True) if not count
    ]
    train = counts.get("train", ())
    thin = [f"{label} ({count} of {max(train)})" for label, count in zip(source.labels, train, strict=False) if count * IMBALANCED < max(train)]
    found = {"unknown-class": unknown, "missing-class": missing, "imbalance": thin}
    return [one for kind, names in found.items() for one in finding(kind, names, noun=noun)]
