"""Copies among texts that differ in nothing a reader would call a difference: case, width, spaces, invisible characters, final punctuation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fmx.data.check.duplicates import Table
from fmx.data.check.findings import Finding, Severity, finding


def normalised_findings(table: Table, normalised: Sequence[bytes], severity: Severity | None = None) -> tuple[Finding, ...]:
    """Report texts that are the same when normalised, in two splits or under two labels; the same bytes are left to `exact_findings`.

    Args:
        table: of all texts.
        normalised: their `likeness_of`, by position.
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
