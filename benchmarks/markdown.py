"""Markdown that the benchmarks' pages share."""

from __future__ import annotations


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Give a table's lines, all columns but the first aligned to the right."""
    aligned = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, aligned, *rows)]
