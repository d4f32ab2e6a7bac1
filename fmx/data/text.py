"""Labelled texts for classification: a table, a folder with a table a split, or a data set of Hugging Face's `datasets`.

Texts are taken as they stand, without any cleaning, as UTF-8 bytes; how they become tokens is not this file's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fmx.data.huggingface import PREFIX, load_tables, sort_classes
from fmx.data.likeness import normalised_digest
from fmx.data.source import SPLIT_NAMES, SPLITS, Item, Source, label_items
from fmx.data.splitting import complete_splits
from fmx.data.tables import READERS, Row, Table, as_text, check_rows, first_few, is_placed, read_split, read_table
from fmx.errors import DataError, nearest_names

TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "comment", "question", "utterance", "message", "body", "title"),
    *("文本", "内容", "评论", "句子"),
)
LABEL_COLUMNS = ("label", "labels", "class", "category", "intent", "sentiment", "target", "topic", "标签", "类别")
"""What columns are called that nobody named, the likeliest first."""

MOST_EMPTY = 0.05
"""Share of rows without a text above which nothing is trained or measured."""

KINDS = f"a {', '.join(READERS)} file, a folder with one for train (and validation, test), or {PREFIX}NAME"
_NAME_THEM = "Name the columns with --text-column and --label-column."


@dataclass(frozen=True)
class _Part:
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


@dataclass(frozen=True)
class _Columns:
    """Which columns hold what."""

    text: str
    label: str
    split: str | None
    group: str | None


@dataclass
class _Found:
    """What the rows of all tables come to: labelled items by split, and the places of rows that are none."""

    rows: dict[str, list[tuple[str, Item]]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    padded: int = 0
    """Labels that had white space around them."""

    def count(self) -> int:
        return sum(map(len, self.rows.values())) + len(self.empty)


def open_text(spec: str, seed: int = 0, group_by: str | None = None, *, text_column: str | None = None, label_column: str | None = None) -> Source:
    """Open labelled texts; splits that are missing are dealt out of the training rows, stratified and seeded.

    Args:
        spec: the path of a `.csv`, `.tsv`, `.jsonl` or `.parquet` file or of a folder with such a file a split, or `hf:NAME_OR_PATH[:CONFIG]`.
        seed: of the split, where the data have none.
        group_by: the column that holds the group; default `group` where there is one.
        text_column: default the first of `TEXT_COLUMNS` that is there, or of two unknown columns the one with longer values.
        label_column: default the first of `LABEL_COLUMNS` that is there, or the other one of two columns.

    Returns:
        A source whose items' `read` gives the text in UTF-8.

    Raises:
        DataError: no such data, a column that is not there, bad rows (all at once), or rows that cannot be learnt from.
        SurroundingsError: a library that reads the format is not installed.
    """
    named = [name for name in (text_column, label_column, group_by) if name]
    parts, notes = _open_parts(spec, named)
    train = next((part for part in parts if part.split in ("train", None)), parts[0])
    columns = _choose_columns(train, text_column, label_column, group_by)
    for part in parts:
        _check_columns(part, [columns.text, columns.label, *([group_by] if group_by else [])])
    found = _Found()
    for part in parts:
        _read_part(part, columns, found)
    _check_found(spec, found)
    labels = sort_classes(train.classes.get(columns.label), (label for label, _ in found.rows["train"]))
    given = label_items({split: found.rows[split] for split in SPLITS if split in found.rows}, labels, spec)
    notes += [*_encoding_notes(parts), *_column_notes(train, columns, text_column, label_column), *_row_notes(found, labels)]
    return Source(spec, labels, complete_splits(given, labels, seed, spec, "texts"), notes=tuple(notes))


def _open_parts(spec: str, named: list[str]) -> tuple[list[_Part], list[str]]:
    path = Path(spec)
    if spec.startswith(PREFIX):
        return _open_dataset(spec)
    if path.is_dir():
        return _open_folder(path, named)
    if not path.exists():
        raise DataError(f"There is no data at {spec!r}.", hint=f"Give {KINDS}.")
    if path.suffix.lower() not in READERS:
        raise DataError(f"{spec} is no table that fmx reads.", hint=f"Give {KINDS}.")
    return [_Part(spec, _read_table(path, named))], []


def _read_table(path: Path, named: list[str]) -> Table:
    return read_table(path, {*TEXT_COLUMNS, *LABEL_COLUMNS, "split", "group", *(name.lower() for name in named)})


def _open_folder(root: Path, named: list[str]) -> tuple[list[_Part], list[str]]:
    """Read the file of every split. Raises: `DataError` without one for training, or with two for one split."""
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in READERS and path.is_file())
    splits: dict[str, Path] = {}
    for path in files:
        split = SPLIT_NAMES.get(path.stem.lower())
        if split in splits:
            raise DataError(f"{root} has two files for {split}: {splits[split].name}, {path.name}.", hint="Leave one of them there.")
        if split:
            splits[split] = path
    if "train" not in splits:
        there = first_few([path.name for path in files]) or "none"
        raise DataError(
            f"{root} has no train file; its tables: {there}.", hint=f"Call one train{files[0].suffix if files else '.csv'}, or give {KINDS}."
        )
    several = len(splits) > 1
    parts = [
        _Part(str(path), _read_table(path, named), f"{path.name} " if several else "", split if several else None)
        for split, path in ((split, splits[split]) for split in SPLITS if split in splits)
    ]
    unused = [path.name for path in files if path not in splits.values()]
    return parts, [f"Files not used: {first_few(unused)}."] if unused else []


def _open_dataset(spec: str) -> tuple[list[_Part], list[str]]:
    tables, notes = load_tables(spec)
    several = len(tables) > 1
    parts = []
    for split, dataset in tables.items():
        table, classes = _dataset_table(dataset)
        parts.append(_Part(f"{spec} ({split})" if several else spec, table, f"{split} " if several else "", split if several else None, classes))
    return parts, list(notes)


def _dataset_table(dataset: Any) -> tuple[Table, dict[str, list[str]]]:
    """Take the columns of plain values out of a `datasets.Dataset`, classes by their names."""
    import datasets

    classes = {name: list(feature.names) for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)}
    plain = [name for name, feature in dataset.features.items() if name in classes or _is_plain(feature, datasets.Value)]
    rows: list[Row] = [(f"row {number}", row) for number, row in enumerate(dataset.select_columns(plain).to_list(), start=1)]
    for column, names in classes.items():
        for _, row in rows:
            index = row[column]
            row[column] = names[index] if index is not None and 0 <= index < len(names) else None
    return Table(list(dataset.features), rows, []), {column: [as_text(name) for name in names] for column, names in classes.items()}


def _is_plain(feature: Any, value_type: type) -> bool:
    return isinstance(feature, value_type) and "binary" not in getattr(feature, "dtype", "")


def _choose_columns(part: _Part, text: str | None, label: str | None, group_by: str | None) -> _Columns:
    """Find the columns that are not named. Raises: `DataError`."""
    _check_columns(part, [name for name in (text, label, group_by) if name])
    columns = [name for name in part.table.columns if name not in (text, label)]
    split = _find(columns, ("split",))
    group = group_by or _find(columns, ("group",))
    free = [name for name in columns if name not in (split, group)]
    text = text or _find(free, TEXT_COLUMNS)
    label = label or _find(free, LABEL_COLUMNS)
    left = [name for name in free if name not in (text, label)]
    if not text and not label and len(left) == 2:
        text, label = sorted(left, key=lambda name: _mean_length(part.table.rows, name), reverse=True)
    elif len(left) == 1 and (text or label):
        text, label = text or left[0], label or left[0]
    if not text or not label:
        lacks = " and ".join(what for what, name in (("a text", text), ("a label", label)) if not name)
        raise DataError(f"{part.where} has no column known to hold {lacks}; its columns: {_listed(part.table.columns)}.", hint=_NAME_THEM)
    if text == label:
        raise DataError(f"{part.where}: the column {text} cannot be both text and label.", hint=_NAME_THEM)
    return _Columns(text, label, None if part.split else split, group)


def _find(columns: list[str], wanted: Iterable[str]) -> str | None:
    """Return the first wanted column that is there, in any case."""
    there = {name.lower(): name for name in reversed(columns)} | {name: name for name in columns}
    return next((there[name] for name in wanted if name in there), None)


def _mean_length(rows: list[Row], column: str) -> float:
    return float(np.mean([len(as_text(row.get(column))) for _, row in rows] or [0]))


def _listed(columns: list[str]) -> str:
    return ", ".join(columns) or "none"


def _check_columns(part: _Part, needed: list[str]) -> None:
    """Check that columns are there and hold plain values. Raises: `DataError`."""
    table = part.table
    if not table.columns:
        check_rows(part.where, 0, table.faults, (), "Give rows with a text and a label.")
    for name in needed:
        if name not in table.columns:
            near = nearest_names(name, table.columns)
            raise DataError(
                f"{part.where} has no column {name!r}; its columns: {_listed(table.columns)}.",
                hint=f"{f'Did you mean {near}? ' if near else ''}{_NAME_THEM}",
            )
        if table.rows and not any(name in row for _, row in table.rows):  # bytes in Parquet, images or lists in `datasets`
            raise DataError(f"{part.where}: the column {name} holds no text or numbers.", hint=_NAME_THEM)


def _read_part(part: _Part, columns: _Columns, found: _Found) -> None:
    """Turn the rows of a table into labelled items."""
    found.faults += [part.prefix + fault for fault in part.table.faults]
    placed = columns.split is not None and is_placed(part.table.rows, columns.split)
    for place, row in part.table.rows:
        name = part.prefix + place
        try:
            text = _read_text(row.get(columns.text))
            if not text:
                found.empty.append(name)
                continue
            label = _read_label(row.get(columns.label))
            split = part.split or read_split(row.get(columns.split or ""), placed)
            group = as_text(row.get(columns.group)) if columns.group else ""
            _encode(group, "group")
        except ValueError as fault:
            found.faults.append(f"{name}: {fault}")
        else:
            found.padded += row[columns.label] != label and isinstance(row[columns.label], str)
            found.rows[split].append((label, _item(name, text, group)))


def _read_text(value: Any) -> bytes:
    """Encode a text; empty where there is none, or only white space. Raises: `ValueError` with what is wrong."""
    if value is None or value != value:  # NaN
        return b""
    if not isinstance(value, str):
        raise ValueError(f"text is no string but {type(value).__name__}")
    return _encode(value, "text") if value.strip() else b""


def _read_label(value: Any) -> str:
    """Return a label's name. Raises: `ValueError` with what is wrong."""
    if isinstance(value, (list, dict, bytes)):
        raise ValueError(f"label is no string or number but {type(value).__name__}")
    label = as_text(value)
    if label in ("", "nan", "NaN"):  # written out by pandas for a missing one
        raise ValueError("no label")
    _encode(label, "label")
    return label


def _encode(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # from an escape in JSON
        raise ValueError(f"{what} has a lone surrogate (U+{ord(text[error.start]):04X} at character {error.start + 1})") from error


def _item(name: str, text: bytes, group: str) -> Item:
    return Item(name, -1, lambda: text, group or None, lambda: len(text), normalised_digest(text.decode()) or None)


def _check_found(spec: str, found: _Found) -> None:
    """Check the rows of all tables. Raises: `DataError`."""
    if not found.faults and len(found.empty) > MOST_EMPTY * found.count():
        raise DataError(
            f"{spec}: {len(found.empty)} of {found.count()} rows have no text: {first_few(found.empty)}.",
            hint=f"Repair or remove them; up to {MOST_EMPTY:.0%} are skipped. {_NAME_THEM}",
        )
    check_rows(spec, found.count(), found.faults, found.rows, "Give rows with a text and a label.")


def _encoding_notes(parts: list[_Part]) -> list[str]:
    return [note for part in parts for note in part.table.notes(Path(part.where).name)]


def _column_notes(part: _Part, columns: _Columns, text: str | None, label: str | None) -> list[str]:
    """Say which columns were taken on a guess, and which are not used."""
    guessed = (not text and columns.text != "text") or (not label and columns.label != "label")
    taken = [f"Texts are taken from the column {columns.text}, labels from {columns.label}."] if guessed else []
    unused = [name for name in part.table.columns if name not in (columns.text, columns.label, columns.split, columns.group)]
    return taken + ([f"Columns not used: {', '.join(unused)}."] if unused else [])


def _row_notes(found: _Found, labels: tuple[str, ...]) -> list[str]:
    """Say what was left out or altered, and which labels are alike."""
    notes = []
    if found.empty:
        notes.append(f"{len(found.empty)} of {found.count()} rows have no text and were skipped: {first_few(found.empty)}.")
    if found.padded:
        notes.append(f"White space around the label was removed in {found.padded} rows.")
    alike: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike[label.casefold()].append(label)
    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    if pairs:
        notes.append(f"Labels that differ only by case are different classes: {first_few(pairs, '; ')}.")
    return notes
