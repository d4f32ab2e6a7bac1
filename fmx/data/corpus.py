"""Texts without labels: the text column of a table or data set, as training reads it, or the lines of `.txt` files.

Texts are taken as they stand. Rows that the data set apart for validation or test are left out: what is measured on them later must be new.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fmx.data.huggingface import PREFIX
from fmx.data.likeness import likeness_of
from fmx.data.parts import Part, open_parts
from fmx.data.source import SPLIT_NAMES
from fmx.data.tables import READERS, Table, check_rows, decode, first_few, is_placed, read_split
from fmx.data.text import KNOWN, TEXT_COLUMNS, Columns, check_columns, find_column, guess_text, read_text
from fmx.errors import DataError, disk_errors
from fmx.storage import sha256_bytes

LINES = ".txt"
KINDS = f"a {', '.join(READERS)} or {LINES} file, a folder of {LINES} files or with a train table, or {PREFIX}NAME"
HELD_OUT = 0.05
"""Share of the texts that nothing is learnt from."""
MOST_HELD_OUT = 2000
"""Texts; more would tell no more, and take longer."""

_GIVE = "Give rows with a text."
_NAME_IT = "Name the column with --text-column."
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Corpus:
    """Texts to learn from, and others to measure on; copies are on one side."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    notes: tuple[str, ...]


def open_corpus(spec: str, text_column: str | None = None, seed: int = 0) -> Corpus:
    """Read texts.

    Args:
        spec: the path of a table, of a `.txt` file with a text a line, of a folder of either, or `hf:NAME_OR_PATH[:CONFIG]`.
        text_column: of a table; None is guessed as in training.
        seed: of what is held out.

    Raises:
        DataError: no such data, no text column, bad rows, or fewer than two different texts.
        SurroundingsError: a library that reads the format is not installed.
    """
    path = Path(spec)
    files = _text_files(path)
    if files:
        if text_column:
            raise DataError(f"{spec} is read line by line and has no column {text_column!r}.", hint="Leave out --text-column.")
        texts, notes = _read_lines(files)
    elif path.exists() and (path.suffix.lower() not in READERS and not path.is_dir()):
        raise DataError(f"{spec} holds no texts that fmx reads.", hint=f"Give {KINDS}.")
    elif not path.exists() and not spec.startswith(PREFIX):
        raise DataError(f"There is no data at {spec!r}.", hint=f"Give {KINDS}.")
    else:
        texts, notes = _read_columns(spec, text_column)
    if not texts:
        raise DataError(f"{spec} has no text in it.", hint=f"{_GIVE} {_NAME_IT}" if not files else "Write a text a line.")
    train, held_out = _hold_out(spec, texts, seed)
    return Corpus(tuple(train), tuple(held_out), tuple(notes))


def _text_files(path: Path) -> list[Path]:
    """Find the files that are read line by line; none where there are tables to train on."""
    if path.is_file():
        return [path] if path.suffix.lower() == LINES else []
    if not path.is_dir():
        return []
    files = sorted(file for file in path.iterdir() if file.is_file())
    if any(file.suffix.lower() in READERS and SPLIT_NAMES.get(file.stem.lower()) == "train" for file in files):
        return []
    return [file for file in files if file.suffix.lower() == LINES]


def _read_lines(files: list[Path]) -> tuple[list[str], list[str]]:
    """Take a text a line; blank lines part nothing."""
    texts: list[str] = []
    notes: list[str] = []
    for file in files:
        with disk_errors(f"reading {file}"):
            data = file.read_bytes()
        content, encoding = decode(data, file)
        notes += Table([], [], [], encoding).notes(file.name)
        texts += [line for line in _LINE_END.split(content) if line.strip()]
    return texts, notes


def _read_columns(spec: str, text_column: str | None) -> tuple[list[str], list[str]]:
    """Take the text column of every table that is not for validation or test."""
    parts, notes = open_parts(spec, KNOWN | {text_column.lower()} if text_column else KNOWN)
    column = _choose_column(next((part for part in parts if part.split in ("train", None)), parts[0]), text_column)
    texts: list[str] = []
    faults: list[str] = []
    empty, set_apart = 0, 0
    for part in parts:
        if part.split not in ("train", None):
            set_apart += len(part.table.rows)
            continue
        check_columns(part, [column], _NAME_IT, _GIVE)
        faults += [part.prefix + fault for fault in part.table.faults]
        notes += part.table.notes(Path(part.where).name)
        splits = None if part.split else find_column([name for name in part.table.columns if name != column], ("split",))
        placed = splits is not None and is_placed(part.table.rows, splits)
        for place, row in part.table.rows:
            try:
                text = read_text(row.get(column))
                is_set_apart = read_split(row.get(splits or ""), placed) != "train"
            except ValueError as fault:
                faults.append(f"{part.prefix}{place}: {fault}")
                continue
            set_apart += is_set_apart
            empty += not text and not is_set_apart
            if text and not is_set_apart:
                texts.append(text.decode())
    if faults:
        check_rows(spec, len(texts), faults, ("train",), _GIVE)
    if column != (text_column or "text"):
        notes.append(f"Texts are taken from the column {column}.")
    if set_apart:
        notes.append(f"{set_apart} rows for validation or test are left out.")
    if empty:
        notes.append(f"{empty} rows have no text and were skipped.")
    return texts, notes


def _choose_column(part: Part, told: str | None) -> str:
    """Find the column of the texts: by name, or the only one, or of two unknown ones that with longer values. Raises: `DataError`."""
    check_columns(part, [told] if told else [], _NAME_IT, _GIVE)
    free = [name for name in part.table.columns if name.lower() not in ("split", "group")]
    column = told or find_column(free, TEXT_COLUMNS)
    if column is None:
        texts, _ = guess_text(part, free, Columns())
        column = next(iter(texts), free[0] if len(free) == 1 else None)
    if column is None:
        there = first_few(part.table.columns) or "none"
        raise DataError(f"{part.where} has no column known to hold a text; its columns: {there}.", hint=_NAME_IT)
    return column


def _hold_out(spec: str, texts: list[str], seed: int) -> tuple[list[str], list[str]]:
    """Set a share of the texts apart by their hash, which neither their order nor copies change. Raises: `DataError`: all are copies."""
    likenesses = [likeness_of(text.encode()) or text.encode() for text in texts]
    different = sorted({*likenesses}, key=lambda likeness: sha256_bytes(f"{seed} ".encode() + likeness))
    if len(different) < 2:
        raise DataError(f"{spec} has one text; another is needed to measure on.", hint="Give more texts.")
    held_out = {*different[: min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(different))))]}
    train = [text for text, likeness in zip(texts, likenesses, strict=True) if likeness not in held_out]
    return train, [text for text, likeness in zip(texts, likenesses, strict=True) if likeness in held_out]
