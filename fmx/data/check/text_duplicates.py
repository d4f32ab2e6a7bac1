"""Copies among texts that differ in nothing a reader would call a difference: case, width, spaces, invisible characters, final punctuation."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from fmx.data.check.duplicates import Table
from fmx.data.check.findings import Finding, Severity, finding

_CONTROL = r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
_IGNORABLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    r"\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e0fff"
)
"""Unicode's Default_Ignorable_Code_Point (UAX 44), without the tags that tell England's flag from Scotland's"""
_INVISIBLE = re.compile(f"[{_CONTROL}{_IGNORABLE}]+")


def normalise(text: str) -> str:
    """Bring a text into the form in which copies are compared.

    That is Unicode's NFKC, case folded, with white space collapsed and without invisible characters and final punctuation; a text of
    nothing but punctuation keeps it.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())  # folding may undo the composition
    plain = " ".join(_INVISIBLE.sub("", folded).split())
    end = len(plain)
    while end and (plain[end - 1] == " " or unicodedata.category(plain[end - 1]).startswith("P")):
        end -= 1
    return plain[:end] or plain


def normalised_digest(text: str) -> bytes:
    """Hash the normalised text: 32 bytes, or none where nothing is left of it."""
    plain = normalise(text)
    return hashlib.sha256(plain.encode()).digest() if plain else b""


def normalised_findings(table: Table, normalised: Sequence[bytes], severity: Severity | None = None) -> tuple[Finding, ...]:
    """Report texts that are the same when normalised, in two splits or under two labels; the same bytes are left to `exact_findings`.

    Args:
        table: of all texts.
        normalised: their `normalised_digest`, by position.
        severity: instead of the kinds' own.
    """
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(normalised):
        if digest:
            same[digest].append(index)
    found: dict[str, list[str]] = {"near-copies-across-splits": [], "near-copies-across-labels": []}
    for copies in same.values():
        for kind, values in zip(found, (table.splits, table.labels), strict=True):
            pair = _differing(table.digests, values, copies)
            if pair:
                found[kind].append(table.describe_pair(*pair))
    return tuple(one for kind, names in found.items() for one in finding(kind, names, severity, table.noun))


def _differing(digests: Sequence[bytes], values: Sequence[str], copies: list[int]) -> tuple[int, int] | None:
    """Return two of the copies that differ in bytes and in a value, if there are, without comparing each with each."""
    first = copies[0]
    other_bytes = [index for index in copies if digests[index] != digests[first]]
    other_value = [index for index in copies if values[index] != values[first]]
    both = next((index for index in other_bytes if values[index] != values[first]), None)
    if both is not None:
        return first, both
    if other_bytes and other_value:  # the one has the first's value, the other its bytes
        one, other = sorted((other_bytes[0], other_value[0]))
        return one, other
    return None
