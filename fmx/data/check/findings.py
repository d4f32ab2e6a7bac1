"""The kinds of finding, how grave each is, and what to do about it: one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
EXAMPLES = 5
"""Names that a finding carries"""


@dataclass(frozen=True)
class Kind:
    """A kind of finding."""

    severity: Severity
    what: str
    advice: str


KINDS: dict[str, Kind] = {
    "unknown-class": Kind("error", "rows of a class that training never sees", "Add the class to the training rows, or remove it."),
    "copies-across-splits": Kind(
        "error", "images are in two splits, byte for byte", "Keep each in one split; what is measured on the other is memory."
    ),
    "near-copies-across-splits": Kind(
        "error", "pairs in two splits show nearly the same image", "Keep each pair in one split (--group-by), or drop one."
    ),
    "copies-across-labels": Kind("error", "images are under two labels, byte for byte", "Decide on one label."),
    "many-unreadable": Kind("error", "files cannot be read, more than training accepts", "Repair or remove them."),
    "unreadable": Kind("warning", "files cannot be read and will be skipped", "Repair or remove them."),
    "truncated": Kind("warning", "files end before their image does", "Copy them again, or remove them."),
    "near-copies-across-labels": Kind("warning", "pairs under two labels show nearly the same image", "Look whether both labels are right."),
    "copies": Kind("warning", "images are there more than once, byte for byte", "Remove the copies; each counts as a row."),
    "near-copies": Kind("warning", "pairs show nearly the same image", "Remove one of each, unless the weight is meant."),
    "missing-class": Kind("warning", "classes have no row in a held-out split", "Nothing can be said about them there; add rows."),
    "imbalance": Kind("warning", "classes have less than a tenth of the largest class's training rows", "Collect more, or read the per-class table."),
    "wrong-extension": Kind("warning", "files are not what their names say", "Rename them; other programs go by the name."),
    "huge": Kind("warning", "images have more than 50 megapixels", "Scale them down; decoding takes time and memory."),
    "tiny": Kind("warning", "images are less than 16 pixels wide or high", "Look whether they are what was meant."),
    "elongated": Kind("warning", "images are more than 8 times as long as wide", "The crop shows a small part of them; cut them before."),
    "animated": Kind("note", "files have several frames", "The first is taken."),
    "rotated": Kind("note", "images are turned by their EXIF orientation", "It is applied."),
    "cmyk": Kind("note", "images are CMYK", "They are converted to RGB."),
    "16-bit": Kind("note", "images have more than 8 bits a channel", "They are scaled to 8."),
    "palette": Kind("note", "images have a palette", "They are converted to RGB."),
    "alpha": Kind("note", "images have transparency", "It becomes white."),
    "grey": Kind("note", "images are grey", "They are converted to RGB."),
}
"""From the gravest to the least, which is the order of a report."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with the data, or worth knowing about them."""

    kind: str
    severity: Severity
    count: int
    examples: tuple[str, ...]
    """Names of the first few, with what is particular about each"""

    @property
    def message(self) -> str:
        """Say what was found, in one line."""
        return f"{self.count:,} {KINDS[self.kind].what}"

    @property
    def advice(self) -> str:
        """Say what to do about it."""
        return KINDS[self.kind].advice

    def as_json(self) -> dict[str, Any]:
        """Return the finding for a program."""
        return {**asdict(self), "message": self.message, "advice": self.advice}


def finding(kind: str, found: Sequence[str], severity: Severity | None = None) -> tuple[Finding, ...]:
    """Make a finding of the names that it concerns; of none, none."""
    if not found:
        return ()
    return (Finding(kind, severity or KINDS[kind].severity, len(found), tuple(found[:EXAMPLES])),)


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Sort findings by severity, then by the order of the table."""
    order = list(KINDS)
    return tuple(sorted(findings, key=lambda found: (SEVERITIES.index(found.severity), order.index(found.kind))))
