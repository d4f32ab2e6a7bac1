"""A table of files and labels: `.csv`, `.jsonl` or `.parquet` with the columns path, label and, where wanted, split and group."""

from __future__ import annotations

import csv
import difflib
import functools
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmx.data.source import SPLIT_NAMES, SPLITS, Item, Source, label_items, sort_labels
from fmx.data.splitting import complete_splits
from fmx.errors import DataError, disk_errors, missing_extra, nearest_names

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "split", "group")
DELIMITERS = (",", ";", "\t", "|")
FAULTS_SHOWN = 5
_LIKELY_MISSPELT = 0.75
"""Likeness from which an unknown column is taken for one of ours misspelt (`splt`), and below which for somebody's own (`width`)."""

Row = tuple[str, dict[str, Any]]
"""Where a row stands ("line 7"), and its values by column."""
Table = tuple[list[str], list[Row], list[str]]
"""Columns, rows, and what is wrong with rows that could not be read."""


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
    with disk_errors(f"reading {path}"):
        columns, rows, faults = READERS[path.suffix.lower()](path)
    group_column = _check_columns(path, columns, group_by)
    found: dict[str, list[tuple[str, Item]]] = {}
    places = _split_places(rows)
    for place, row in rows:
        try:
            split, label, item = _item(path.parent, row, group_column, places)
        except ValueError as fault:
            faults.append(f"{place}: {fault}")
        else:
            found.setdefault(split, []).append((label, item))
    _check_rows(path, rows, faults, found)
    labels = sort_labels(label for label, _ in found["train"])
    given = label_items({split: found[split] for split in SPLITS if split in found}, labels, str(path))
    return Source(str(path), labels, complete_splits(given, labels, seed, str(path)), notes=_notes(columns, group_column))


def _read_csv(path: Path) -> Table:
    text = _text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    faults: list[str] = []
    rows: list[Row] = []
    header: list[str] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for values in reader:
            if len(values) == len(header):
                rows.append((f"line {reader.line_num}", dict(zip(header, values, strict=True))))
            elif values:
                faults.append(f"line {reader.line_num}: {len(values)} fields, where the header has {len(header)}")
    except csv.Error as error:
        faults.append(f"line {reader.line_num}: {error}")
    return header, rows, faults


def _delimiter(text: str) -> str:
    """Choose the delimiter that splits the header into the most of our columns, then into the most columns."""
    header = (text.splitlines() or [""])[0]

    def score(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        return len(set(names) & set(COLUMNS)), len(names)

    return max(DELIMITERS, key=score)


def _read_jsonl(path: Path) -> Table:
    faults: list[str] = []
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            faults.append(f"line {number}: no JSON ({error.msg})")
            continue
        if not isinstance(row, dict):
            faults.append(f"line {number}: no JSON object")
            continue
        rows.append((f"line {number}", row))
        columns |= dict.fromkeys(row)
    return list(columns), rows, faults


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("data", "Reading .parquet") from error
    try:
        table = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}).", hint="Write it again, or give a .csv or .jsonl.") from error
    wanted = [name for name in table.column_names if not pyarrow.types.is_binary(table.schema.field(name).type)]
    return table.column_names, [(f"row {number}", row) for number, row in enumerate(table.select(wanted).to_pylist(), start=1)], []


READERS: dict[str, Callable[[Path], Table]] = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).", hint="Save it as UTF-8.") from error


def _check_columns(path: Path, columns: list[str], group_by: str | None) -> str:
    """Check the columns and return the name of the group's. Raises: `DataError` with the nearest names."""
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the column {twice[0]} twice.", hint="Rename or remove one of them.")
    missing = [name for name in (*REQUIRED, *([group_by] if group_by else [])) if name not in columns]
    if missing:
        near = "; ".join(f"for {name} perhaps {found}" for name in missing if (found := nearest_names(name, columns)))
        raise DataError(
            f"{path} has no column {', '.join(missing)}; its columns: {', '.join(columns) or 'none'}.",
            hint=f"Rename {near}." if near else "A manifest has the columns path, label and, where wanted, split and group.",
        )
    absent = [name for name in COLUMNS if name not in columns]
    for name in columns:
        near_ours = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=_LIKELY_MISSPELT)
        if near_ours and name not in (*COLUMNS, group_by):
            raise DataError(f"{path} has an unknown column {name!r}.", hint=f"Did you mean {near_ours[0]}? Otherwise rename it.")
    return group_by or "group"


def _split_places(rows: list[Row]) -> bool:
    """Say whether the rows are already dealt into splits."""
    return any(_as_text(row.get("split")) for _, row in rows)


def _item(folder: Path, row: dict[str, Any], group_column: str, placed: bool) -> tuple[str, str, Item]:
    """Turn a row into (split, label, item). Raises: `ValueError` with what is wrong."""
    name, label, split = (_as_text(row.get(column)) for column in ("path", "label", "split"))
    if not name:
        raise ValueError("no path")
    if not label:
        raise ValueError("no label")
    if placed and not split:
        raise ValueError("no split, where other rows have one")
    if placed and split.lower() not in SPLIT_NAMES:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLIT_NAMES)}")
    if "\0" in name:
        raise ValueError("a path with a zero byte")
    file = folder / name
    item = Item(name, -1, file.read_bytes, _as_text(row.get(group_column)) or None, functools.partial(os.path.getsize, file))
    return SPLIT_NAMES[split.lower()] if placed else "train", label, item


def _as_text(value: Any) -> str:
    """Write a value as text: 3 and 3.0 are the label "3", a missing one is empty."""
    if value is None or value != value:  # NaN, which pandas writes for a missing value
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _check_rows(path: Path, rows: list[Row], faults: list[str], found: dict[str, list[tuple[str, Item]]]) -> None:
    if faults:
        more = f" and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise DataError(
            f"{path} has {len(faults)} bad rows: {'; '.join(faults[:FAULTS_SHOWN])}{more}.", hint="Repair or remove them; nothing was skipped."
        )
    if not rows:
        raise DataError(f"{path} has no rows.", hint="A manifest has the columns path, label and, where wanted, split and group.")
    if "train" not in found:
        raise DataError(f"{path} has no train rows.", hint="Mark some rows as train, or leave the split column out and let fmx deal the splits.")


def _notes(columns: list[str], group_column: str) -> tuple[str, ...]:
    unused = [name for name in columns if name not in (*REQUIRED, "split", group_column)]
    return (f"Columns not used: {', '.join(unused)}.",) if unused else ()
