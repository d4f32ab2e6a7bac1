"""The quick check that runs on rows which are decoded already, before they are trained on."""

from __future__ import annotations

import itertools

import numpy as np

from fmx.data.check.duplicates import Table, exact_findings, near_findings, near_pairs
from fmx.data.check.findings import Finding, worst_first
from fmx.data.check.thumbnails import row_thumbnails
from fmx.data.rows import Rows


def find_leakage(splits: dict[str, Rows]) -> tuple[Finding, ...]:
    """Find what would make a measured accuracy wrong: the same file in two splits or under two labels, and look-alikes across splits.

    Copies byte for byte are errors. Look-alikes are warnings here: rows are cropped and small, so they say less than the files that
    `fmx data check` reads.

    Args:
        splits: decoded rows by split, such as `read_splits` gives.

    Returns:
        the findings, worst first.
    """
    table = Table(
        names=list(itertools.chain.from_iterable(rows.names for rows in splits.values())),
        splits=[split for split, rows in splits.items() for _ in range(len(rows))],
        labels=[f"class {label}" for rows in splits.values() for label in rows.labels.tolist()],
        digests=[digest for rows in splits.values() for digest in rows.digests or (b"",) * len(rows)],
    )
    thumbnails = np.concatenate([row_thumbnails(rows.images) for rows in splits.values()])
    near = near_findings(table, near_pairs(thumbnails), "warning", within=False)
    return worst_first([*exact_findings(table, within=False), *near])
