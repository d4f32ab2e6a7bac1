"""The classes of a source: how many rows each has in which split, and which have too few."""

from __future__ import annotations

from collections import Counter

from fmx.data.check.findings import Finding, finding
from fmx.data.source import Item, Source
from fmx.entities import kinds_of

A_SCORE = "a score"
"""Of every row that has one: two people may score the same pair otherwise"""
IMBALANCED = 10
"""How many times more training rows the largest class may have than another"""


def class_names(source: Source) -> tuple[str, ...]:
    """Name what is counted: the classes, or the kinds of entities."""
    return kinds_of(source.labels) if source.has_entities else source.labels


def count_rows(source: Source) -> dict[str, tuple[int, ...]]:
    """Count the rows of every label, or the entities of every kind, by split."""
    if source.has_entities:
        found = {split: Counter(span.label for item in items for span in item.spans) for split, items in source.splits.items()}
        return {split: tuple(kinds[name] for name in class_names(source)) for split, kinds in found.items()}
    if source.has_several:
        several = {split: Counter(label for item in items for label in item.several) for split, items in source.splits.items()}
        return {split: tuple(labels[label] for label in range(len(source.labels))) for split, labels in several.items()}
    counted = {split: Counter(item.label for item in items) for split, items in source.splits.items()}
    return {split: tuple(labels[label] for label in range(len(source.labels))) for split, labels in counted.items()}


def label_name(source: Source, item: Item) -> str:
    """Name an item's label, also one that the source does not know; of a text with entities its kinds and places."""
    if source.has_scores:
        return A_SCORE
    if source.has_several:
        return ", ".join(source.labels[label] for label in item.several) or "no label"
    if source.has_entities:
        return ", ".join(f"{span.label} {span.start} to {span.end}" for span in item.spans) or "no entity"
    return source.labels[item.label] if 0 <= item.label < len(source.labels) else f"class {item.label}"


def class_findings(source: Source, counts: dict[str, tuple[int, ...]], noun: str = "image") -> list[Finding]:
    """Report labels that the source does not know, and classes with no held-out rows or few training rows; grades of scores may lack rows.

    Args:
        source: labelled data.
        counts: of its rows, from `count_rows`.
        noun: what the rows are.
    """
    if source.has_scores:
        return []
    unknown = [item.name for items in source.splits.values() for item in items if not 0 <= item.label < len(source.labels)]
    names = class_names(source)
    missing = [f"{label} ({split})" for split in counts if split != "train" for label, count in zip(names, counts[split], strict=True) if not count]
    train = counts.get("train", ())
    thin = [f"{label} ({count} of {max(train)})" for label, count in zip(names, train, strict=False) if count * IMBALANCED < max(train)]
    found = {"unknown-class": unknown, "missing-class": missing, "imbalance": thin}
    return [one for kind, names in found.items() for one in finding(kind, names, noun=noun)]
