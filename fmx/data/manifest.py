"""A table of files and labels: `.csv`, `.jsonl` or `.parquet` with the columns path, label and, where wanted, split and group."""

from __future__ import annotations

import difflib
import functools
import os
from pathlib import Path
from typing import Any

from fmx.data.source import SPLITS, Item, Source, label_items, sort_labels
from fmx.data.splitting import complete_splits
from fmx.data.tables import as_text, check_rows, is_placed, read_split, read_table
from fmx.errors import DataError, nearest_names

ENDINGS = (".csv", ".jsonl", ".parquet")

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "split", "group")
_COLUMNS_HINT = "A manifest has the columns path, label and, where wanted, split and group."
_LIKELY_MISSPELT = 0.75
"""Likeness from which an unknown column is taken for one of ours misspelt (`splt`), and below which for somebody's own (`width`)."""


def open_manifest(path: Path, seed: int, group_by: str | None = None) -> Source:
    """Open a table of files; paths are relative to its folder, and files that are missing are left for decoding to name.

    Args:
        path: of the table; its ending says the format.
        seed: of the split where there is no split column.
        group_by: the column that holds the group; default `group` where there is one.

    Raises:
        DataError: not such a table, bad rows (all at once), or rows that cannot be learnt from.
        SurroundingsError: a `.parquet` without pyarrow.
    """
    table = read_table(path, COLUMNS)
    group_column = _check_columns(path, table.columns, group_by)
    found: dict[str, list[tuple[str, Item]]] = {}
    faults = list(table.faults)
    places = is_placed(table.rows)
    for place, row in table.rows:
        try:
            split, label, item = _item(path.parent, row, group_column, places)
        except ValueError as fault:
            faults.append(f"{place}: {fault}")
        else:
            found.setdefault(split, []).append((label, item))
    check_rows(path, len(table.rows), faults, found, _COLUMNS_HINT)
    labels = sort_labels(label for label, _ in found["train"])
    given = label_items({split: found[split] for split in SPLITS if split in found}, labels, str(path))
    return Source(
        str(path), labels, complete_splits(given, labels, seed, str(path)), notes=_notes(table.columns, group_column) + table.notes(path.name)
    )


def _check_columns(path: Path, columns: list[str], group_by: str | None) -> str:
    """Check the columns and return the name of the group's. Raises: `DataError` with the nearest names."""
    missing = [name for name in (*REQUIRED, *([group_by] if group_by else [])) if name not in columns]
    if missing:
        near = "; ".join(f"for {name} perhaps {found}" for name in missing if (found := nearest_names(name, columns)))
        raise DataError(
            f"{path} has no column {', '.join(missing)}; its columns: {', '.join(columns) or 'none'}.",
            hint=f"Rename {near}." if near else _COLUMNS_HINT,
        )
    absent = [name for name in COLUMNS if name not in columns]
    for name in columns:
        near_ours = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=_LIKELY_MISSPELT)
        if near_ours and name not in (*COLUMNS, group_by):
            raise DataError(f"{path} has an unknown column {name!r}.", hint=f"Did you mean {near_ours[0]}? Otherwise rename it.")
    return group_by or "group"


def _item(folder: Path, row: dict[str, Any], group_column: str, placed: bool) -> tuple[str, str, Item]:
    """Turn a row into (split, label, item). Raises: `ValueError` with what is wrong."""
    name, label = as_text(row.get("path")), as_text(row.get("label"))
    if not name:
        raise ValueError("no path")
    if not label:
        raise ValueError("no label")
    split = read_split(row.get("split"), placed)
    if "\0" in name:
        raise ValueError("a path with a zero byte")
    file = folder / name
    item = Item(name, -1, file.read_bytes, as_text(row.get(group_column)) or None, functools.partial(os.path.getsize, file))
    return split, label, item


def _notes(columns: list[str], group_column: str) -> tuple[str, ...]:
    unused = [name for name in columns if name not in (*REQUIRED, "split", group_column)]
    return (f"Columns not used: {', '.join(unused)}.",) if unused else ()
