"""The quick check that runs on rows which are decoded already, before they are trained on."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np

from fmx.data.check.classes import A_SCORE
from fmx.data.check.duplicates import Table, exact_findings, near_findings, near_pairs
from fmx.data.check.findings import Finding, worst_first
from fmx.data.check.text_duplicates import normalised_findings
from fmx.data.check.thumbnails import row_thumbnails
from fmx.data.likeness import likeness_of
from fmx.data.rows import Rows


def find_leakage(splits: dict[str, Rows], noun: str = "image") -> tuple[Finding, ...]:
    """Find what would make a measured accuracy wrong: the same input in two splits or under two labels, and those that are nearly the same.

    Copies byte for byte are errors. Nearly the same is a warning here: rows of images are cropped and small, so they say less than the files
    that `fmx data check` reads; and of texts that differ in case or punctuation some are meant.

    Args:
        splits: decoded rows by split, such as `read_splits` gives.
        noun: what the rows are: image, text or pair.

    Returns:
        the findings, worst first.
    """
    table = Table(
        names=list(itertools.chain.from_iterable(rows.names for rows in splits.values())),
        splits=[split for split, rows in splits.items() for _ in range(len(rows))],
        labels=[name for rows in splits.values() for name in _label_names(rows)],
        digests=[digest for rows in splits.values() for digest in rows.digests or (b"",) * len(rows)],
        noun=noun,
    )
    near = _near_images(table, splits) if noun == "image" else _near_texts(table, splits)
    return worst_first([*exact_findings(table, within=False), *near])


def _label_names(rows: Rows) -> list[str]:
    """Name rows' labels, so that other ones have other names."""
    if rows.grades:
        return [A_SCORE] * len(rows)
    if not rows.has_units:
        return [f"class {label}" for label in rows.labels.tolist()]
    return [f"entities {hashlib.sha256(tags.tobytes()).hexdigest()[:8]}" for tags in rows.labels]


def _near_images(table: Table, splits: dict[str, Rows]) -> tuple[Finding, ...]:
    thumbnails = np.concatenate([row_thumbnails(rows.values) for rows in splits.values()])
    return near_findings(table, near_pairs(thumbnails), "warning", within=False)


def _near_texts(table: Table, splits: dict[str, Rows]) -> tuple[Finding, ...]:
    items = [item for rows in splits.values() for item in rows.items]
    if len(items) != len(table.names):  # rows that were made without their texts
        return ()
    return normalised_findings(table, [likeness_of(item.read()) for item in items], "warning")
