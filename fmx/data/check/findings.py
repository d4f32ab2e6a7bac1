"""The kinds of finding, how grave each is, and what to do about it: one table for images, one for texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
    """A noun in the plural, of those in `_ONE`, and what is the matter with it"""
    advice: str


KINDS: dict[str, Kind] = {
    "unknown-class": Kind("error", "rows of a class that training never sees", "Add the class to the training rows, or remove it."),
    "copies-across-splits": Kind("error", "images in two splits, byte for byte", "Keep each in one split; what is measured on the other is memory."),
    "near-copies-across-splits": Kind(
        "error", "pairs in two splits that show nearly the same image", "Keep each pair in one split (--group-by), or drop one."
    ),
    "copies-across-labels": Kind("error", "images under two labels, byte for byte", "Decide on one label."),
    "many-unreadable": Kind("error", "files that cannot be read, more than training accepts", "Repair or remove them."),
    "unreadable": Kind("warning", "files that cannot be read and will be skipped", "Repair or remove them."),
    "truncated": Kind("warning", "files cut short in the middle of an image", "Copy them again, or remove them."),
    "near-copies-across-labels": Kind("warning", "pairs under two labels that show nearly the same image", "Look whether both labels are right."),
    "copies": Kind("warning", "images more than once, byte for byte", "Remove the copies; each counts as a row."),
    "near-copies": Kind("warning", "pairs that show nearly the same image", "Remove one of each, unless the weight is meant."),
    "missing-class": Kind("warning", "classes without a row in a held-out split", "Nothing can be said about them there; add rows."),
    "imbalance": Kind("warning", "classes with less than a tenth of the largest class's training rows", "Collect more, or read the per-class table."),
    "wrong-extension": Kind("warning", "files of another format than their names say", "Rename them; other programs go by the name."),
    "huge": Kind("warning", "images of more than 50 megapixels", "Scale them down; decoding takes time and memory."),
    "tiny": Kind("warning", "images less than 16 pixels wide or high", "Look whether they are what was meant."),
    "elongated": Kind("warning", "images more than 8 times as long as wide", "The crop shows a small part of them; cut them before."),
    "animated": Kind("note", "files with several frames", "The first is taken."),
    "rotated": Kind("note", "images turned by EXIF orientation", "It is applied."),
    "cmyk": Kind("note", "images in CMYK", "They are converted to RGB."),
    "16-bit": Kind("note", "images with more than 8 bits a channel", "They are scaled to 8."),
    "palette": Kind("note", "images with a palette", "They are converted to RGB."),
    "alpha": Kind("note", "images with transparency", "It becomes white."),
    "grey": Kind("note", "images in grey", "They are converted to RGB."),
}
"""From the gravest to the least, which is the order of a report."""

_PERSONAL = "Take them out, or train with the consent of those they are of; a model may give them away."

TEXT_KINDS: dict[str, Kind] = {
    "unknown-class": KINDS["unknown-class"],
    "copies-across-splits": Kind("error", "texts in two splits, byte for byte", "Keep each in one split; what is measured on the other is memory."),
    "near-copies-across-splits": Kind(
        "error",
        "texts in two splits that differ only in case, width, spaces, invisible characters or final punctuation",
        "Keep each pair in one split (--group-by), or drop one.",
    ),
    "copies-across-labels": Kind("error", "texts under two labels, byte for byte", "Decide on one label."),
    "many-unreadable": Kind("error", "texts that cannot be used, more than training accepts", "Repair or remove them."),
    "unreadable": Kind("warning", "texts that cannot be read and will be skipped", "Repair or remove them."),
    "invisible": Kind("warning", "texts that hold only white space, control or invisible characters", "Remove them; they teach nothing."),
    "near-copies-across-labels": Kind(
        "warning",
        "texts under two labels that differ only in case, width, spaces, invisible characters or final punctuation",
        "Look whether both labels are right.",
    ),
    "copies": Kind("warning", "texts more than once, byte for byte", "Remove the copies; each counts as a row."),
    "missing-class": KINDS["missing-class"],
    "imbalance": KINDS["imbalance"],
    "script-shift": Kind(
        "warning",
        "splits whose scripts differ from those of the training split by more than 20 points",
        "Deal the splits anew, so that what is measured is what is learnt.",
    ),
    "language-shift": Kind(
        "warning",
        "splits whose languages differ from those of the training split by more than 20 points",
        "Deal the splits anew, so that what is measured is what is learnt.",
    ),
    "scores-apart": Kind(
        "warning",
        "pairs more than once whose scores are apart by more than a fifth of the scale",
        "Look which is right, or give each pair the mean of its scores.",
    ),
    "long": Kind("warning", "texts longer than --max-length, which training cuts at the end", "Raise --max-length, or put first what matters."),
    "email": Kind("warning", "texts with an e-mail address", _PERSONAL),
    "phone": Kind("warning", "texts with a phone number", _PERSONAL),
    "identity-card": Kind("warning", "texts with the number of an identity card", _PERSONAL),
    "payment-card": Kind("warning", "texts with the number of a payment card", _PERSONAL),
}
"""The same for texts; where an image's fault has a counterpart, it has the same name."""

PAIR_KINDS = {name: replace(kind, what=kind.what.replace("texts", "pairs", 1)) for name, kind in TEXT_KINDS.items()}
"""The same for pairs of texts."""

KINDS_OF: dict[str, dict[str, Kind]] = {"image": KINDS, "text": TEXT_KINDS, "pair": PAIR_KINDS}
"""By the noun of the rows."""

_ONE = {"rows": "row", "images": "image", "texts": "text", "pairs": "pair", "files": "file", "classes": "class", "splits": "split"}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with the data, or worth knowing about them."""

    kind: str
    severity: Severity
    count: int
    examples: tuple[str, ...]
    """Names of the first few, with what is particular about each"""
    noun: str = "image"
    """What the rows are"""

    @property
    def message(self) -> str:
        """Say what was found, in one line."""
        noun, _, rest = self._kind.what.partition(" ")
        return f"{self.count:,} {_ONE[noun] if self.count == 1 else noun} {rest}"

    @property
    def advice(self) -> str:
        """Say what to do about it."""
        return self._kind.advice

    @property
    def _kind(self) -> Kind:
        return KINDS_OF[self.noun][self.kind]

    def as_json(self) -> dict[str, Any]:
        """Return the finding for a program."""
        facts = {name: value for name, value in asdict(self).items() if name != "noun"}
        return {**facts, "message": self.message, "advice": self.advice}


def finding(kind: str, found: Sequence[str], severity: Severity | None = None, noun: str = "image") -> tuple[Finding, ...]:
    """Make a finding of the names that it concerns; of none, none."""
    if not found:
        return ()
    return (Finding(kind, severity or KINDS_OF[noun][kind].severity, len(found), tuple(found[:EXAMPLES]), noun),)


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Sort findings by severity, then by the order of their table."""
    return tuple(sorted(findings, key=lambda found: (SEVERITIES.index(found.severity), list(KINDS_OF[found.noun]).index(found.kind))))
