"""The tables that a source of texts is made of: one file, a folder with one a split, or the splits of a data set of Hugging Face's `datasets`.

What their columns mean is text.py's, and entities.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmx.data.huggingface import PREFIX, load_tables
from fmx.data.source import SPLIT_NAMES, SPLITS
from fmx.data.tables import READERS, Reader, Row, Table, as_text, first_few, read_table
from fmx.errors import DataError, nearest_names


@dataclass(frozen=True)
class Part:
    """One table of a source."""

    where: str
    """What messages call it."""
    table: Table
    prefix: str = ""
    """In front of the names of its rows, where there are several tables."""
    split: str | None = None
    """What its file or data set says; None where its rows do, or nothing does."""
    classes: dict[str, list[str]] = field(default_factory=dict)
    """Names of classes, in the data set's order, by the columns that have them."""


def open_parts(spec: str, known: Collection[str], readers: Mapping[str, Reader] = READERS, *, lists: bool = False) -> tuple[list[Part], list[str]]:
    """Open the tables of a source.

    Args:
        spec: a path, or `hf:NAME_OR_PATH[:CONFIG]`.
        known: columns that the caller knows, in lower case.
        readers: by the ending of a file.
        lists: take the columns of a data set that hold lists, too.

    Returns:
        The parts, the one for training first, and notes.

    Raises:
        DataError: no such data, or no table for training among them.
        SurroundingsError: a library that reads the format is not installed.
    """
    path = Path(spec)
    if spec.startswith(PREFIX):
        return _open_dataset(spec, lists)
    if path.is_dir():
        return _open_folder(path, known, readers)
    if not path.exists():
        raise DataError(f"There is no data at {spec!r}.", hint=f"Give {_kinds(readers)}.")
    if path.suffix.lower() not in readers:
        raise DataError(f"{spec} is no table that fmx reads.", hint=f"Give {_kinds(readers)}.")
    return [Part(spec, read_table(path, known, readers))], []


def _open_folder(root: Path, known: Collection[str], readers: Mapping[str, Reader]) -> tuple[list[Part], list[str]]:
    """Read the file of every split. Raises: `DataError` without one for training, or with two for one split."""
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in readers and path.is_file())
    splits: dict[str, Path] = {}
    for path in files:
        split = SPLIT_NAMES.get(path.stem.lower())
        if split in splits:
            raise DataError(f"{root} has two files for {split}: {splits[split].name}, {path.name}.", hint="Leave one of them there.")
        if split:
            splits[split] = path
    if "train" not in splits:
        there = first_few([path.name for path in files]) or "none"
        hint = f"Call one train{files[0].suffix if files else next(iter(readers))}, or give {_kinds(readers)}."
        raise DataError(f"{root} has no train file; its tables: {there}.", hint=hint)
    several = len(splits) > 1
    parts = [
        Part(str(path), read_table(path, known, readers), f"{path.name} " if several else "", split if several else None)
        for split, path in ((split, splits[split]) for split in SPLITS if split in splits)
    ]
    unused = [path.name for path in files if path not in splits.values()]
    return parts, [f"Files not used: {first_few(unused)}."] if unused else []


def _open_dataset(spec: str, lists: bool) -> tuple[list[Part], list[str]]:
    tables, notes = load_tables(spec)
    several = len(tables) > 1
    parts = []
    for split, dataset in tables.items():
        table, classes = _dataset_table(dataset, lists)
        parts.append(Part(f"{spec} ({split})" if several else spec, table, f"{split} " if several else "", split if several else None, classes))
    return parts, list(notes)


def _dataset_table(dataset: Any, lists: bool) -> tuple[Table, dict[str, list[str]]]:
    """Take the columns of plain values, and with `lists` all but those of bytes, out of a `datasets.Dataset`, classes by their names."""
    features = dataset.features
    classes = {name: list(_element(feature).names) for name, feature in features.items() if _is_class(feature, lists)}
    plain = [name for name, feature in features.items() if name in classes or _is_plain(feature) or (lists and not _is_bytes(feature))]
    rows: list[Row] = [(f"row {number}", row) for number, row in enumerate(dataset.select_columns(plain).to_list(), start=1)]
    for column, names in classes.items():
        for _, row in rows:
            value = row[column]
            row[column] = [_name(names, index) for index in value] if isinstance(value, list) else _name(names, value)
    return Table(list(features), rows, []), {column: [as_text(name) for name in names] for column, names in classes.items()}


def _name(names: list[str], index: int | None) -> str | None:
    return names[index] if index is not None and 0 <= index < len(names) else None


def _element(feature: Any) -> Any:
    """Give what a list is of; a feature that is no list is itself."""
    return getattr(feature, "feature", feature)


def _is_class(feature: Any, lists: bool) -> bool:
    import datasets

    return isinstance(_element(feature) if lists else feature, datasets.ClassLabel)


def _is_plain(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and not _is_bytes(feature)


def _is_bytes(feature: Any) -> bool:
    return "binary" in str(getattr(feature, "dtype", ""))


def _kinds(readers: Mapping[str, Reader]) -> str:
    return f"a {', '.join(readers)} file, a folder with one for train (and validation, test), or {PREFIX}NAME"


def check_column(part: Part, name: str, hint: str) -> None:
    """Check that a table has a column. Raises: `DataError`, with the nearest name."""
    columns = part.table.columns
    if name not in columns:
        near = nearest_names(name, columns)
        what = f"{part.where} has no column {name!r}; its columns: {listed(columns)}."
        raise DataError(what, hint=f"{f'Did you mean {near}? ' if near else ''}{hint}")


def listed(columns: list[str]) -> str:
    """List the columns of a table."""
    return ", ".join(columns) or "none"
