"""Every file of a source read once: counts, what is odd about files, and copies. Memory stays at about 1 KB a file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmx.data.check.checked import Checked
from fmx.data.check.classes import class_findings, count_rows
from fmx.data.check.duplicates import Table, exact_findings, near_findings, near_pairs, table_of
from fmx.data.check.files import FileFacts, read_facts
from fmx.data.check.findings import KINDS, Finding, finding, worst_first
from fmx.data.check.thumbnails import SIDE
from fmx.data.parallel import in_threads
from fmx.data.rows import MOST_UNREADABLE
from fmx.data.source import Source


@dataclass(frozen=True)
class Spread:
    """The least, the median and the most of something that files have."""

    least: int
    median: int
    most: int


@dataclass(frozen=True)
class DataCheck(Checked):
    """What a source of images holds, and what is wrong with it."""

    formats: dict[str, int]
    """Readable files by format, the most frequent first"""
    spreads: dict[str, Spread]
    """Of width, height and size_bytes of the readable files"""

    def facts_json(self) -> dict[str, Any]:
        """Return the formats and sizes."""
        return {
            "formats": self.formats,
            "spreads": {name: {"least": one.least, "median": one.median, "most": one.most} for name, one in self.spreads.items()},
        }


def check_source(source: Source, *, near: bool = True) -> DataCheck:
    """Read every file of a source and say what is wrong with the data.

    Args:
        source: labelled data.
        near: look for near duplicates too.
    """
    items = [(split, item) for split, found in source.splits.items() for item in found]
    thumbnails = np.zeros((len(items), SIDE, SIDE), np.uint8)
    facts: list[FileFacts] = [FileFacts(b"", 0, False, ())] * len(items)

    def read(index: int) -> None:
        facts[index] = read_facts(items[index][1], thumbnails[index])

    in_threads(read, len(items), "checking images")
    table = table_of(source, items, [fact.digest for fact in facts])
    readable = np.array([index for index, fact in enumerate(facts) if fact.readable], dtype=np.int64)
    near_found = near_findings(table, readable[near_pairs(thumbnails[readable])]) if near else ()
    counts = count_rows(source)
    return DataCheck(
        source=source.name,
        labels=source.labels,
        counts=counts,
        rows={split: len(found) for split, found in source.splits.items()},
        formats=dict(Counter(fact.format for fact in facts if fact.readable).most_common()),
        spreads=_spreads([fact for fact in facts if fact.readable]),
        notes=source.notes,
        findings=worst_first([*class_findings(source, counts), *_file_findings(table, facts), *exact_findings(table), *near_found]),
    )


def _spreads(facts: list[FileFacts]) -> dict[str, Spread]:
    values = {name: [getattr(fact, name) for fact in facts] for name in ("width", "height", "size_bytes")}
    return {name: Spread(min(found), int(np.median(found)), max(found)) for name, found in values.items() if found}


def _file_findings(table: Table, facts: list[FileFacts]) -> list[Finding]:
    marked: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name, fact in zip(table.names, facts, strict=True):
        for kind, detail in fact.marks:
            marked[kind].append(f"{name} ({detail})")
    unreadable = [name for name, fact in zip(table.names, facts, strict=True) if not fact.readable]
    if len(unreadable) > MOST_UNREADABLE * len(facts):
        marked["many-unreadable"] = unreadable
    return [one for kind, names in marked.items() for one in finding(kind, names)]
