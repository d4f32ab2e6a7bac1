"""What every check of labelled data answers with, whatever the rows are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fmx.data.check.findings import Finding


@dataclass(frozen=True)
class Checked:
    """What a source holds, and what is wrong with it."""

    source: str
    labels: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Rows a label, or entities a kind, by split"""
    rows: dict[str, int]
    """By split"""
    notes: tuple[str, ...]
    """What was said when the source was opened"""
    findings: tuple[Finding, ...]
    """Worst first"""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings by which training would be misled."""
        return tuple(found for found in self.findings if found.severity == "error")

    def facts_json(self) -> dict[str, Any]:
        """Return what is particular to the kind of rows, for a program."""
        return {}

    def as_json(self) -> dict[str, Any]:
        """Return the check for a program."""
        return {
            "source": self.source,
            "rows": self.rows,
            "classes": [{"label": label, **{split: counts[i] for split, counts in self.counts.items()}} for i, label in enumerate(self.labels)],
            **self.facts_json(),
            "notes": list(self.notes),
            "findings": [found.as_json() for found in self.findings],
        }
