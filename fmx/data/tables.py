"""Tables on disk, `.csv`, `.tsv`, `.jsonl` and `.parquet`: read whole and once, with what is wrong with each row that could not be read.

What the columns mean is the caller's: files and labels in manifest.py, texts and labels in text.py.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmx.data.source import SPLIT_NAMES
from fmx.errors import DataError, disk_errors, first_line, missing_extra

DELIMITERS = (",", ";", "\t", "|")
FAULTS_SHOWN = 5
LOOKED_AT = 20_000
"""Characters that tell an encoding."""
LEAST_COMMON = 0.85
"""Of these, so many must be common."""
FEW, LEAST_BEHIND = 30, 0.05
"""EUC-KR writes Hangul with the lead bytes of the first 25 rows alone; of so many different Chinese characters some are from the rows behind."""
BEHIND_HANGUL = range(0xC9, 0xD8)
COMMON = (0xA1, 0xA3, *range(0xB0, 0xD8))
"""Lead bytes of GB 2312: of punctuation and full-width forms, and of common characters."""

Row = tuple[str, dict[str, Any]]
"""Where a row stands ("line 7"), and its values by column."""


@dataclass(frozen=True)
class Table:
    """The columns and rows of a table, what is wrong with rows that could not be read, and how its text was encoded."""

    columns: list[str]
    rows: list[Row]
    faults: list[str]
    encoding: str = "UTF-8"

    def notes(self, name: str) -> tuple[str, ...]:
        """Say that the encoding was another than UTF-8, and so a guess."""
        return () if self.encoding == "UTF-8" else (f"{name} is not UTF-8; it was read as {self.encoding}.",)


Reader = Callable[[Path, Collection[str]], Table]
"""Reads a file; columns that the caller knows may help."""


def read_table(path: Path, known: Collection[str], readers: Mapping[str, Reader] | None = None) -> Table:
    """Read a table, in the format that its ending says.

    Args:
        path: of the table; its ending is one of the readers'.
        known: columns that the caller knows, in lower case: the delimiter of a `.csv` is the one that finds most of them.
        readers: by ending; default `READERS`.

    Raises:
        DataError: it cannot be read at all, or has a column twice.
        SurroundingsError: a `.parquet` without pyarrow.
    """
    with disk_errors(f"reading {path}"):
        return (readers or READERS)[path.suffix.lower()](path, known)


def as_text(value: Any) -> str:
    """Write a value as text: 3 and 3.0 are the label "3", a missing one is empty."""
    if value is None or value != value:  # NaN, which pandas writes for a missing value
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def is_placed(rows: list[Row], column: str = "split") -> bool:
    """Say whether the rows are already dealt into splits."""
    return any(as_text(row.get(column)) for _, row in rows)


def read_split(value: Any, placed: bool) -> str:
    """Return the split that a row is in; `train` where rows are not dealt yet. Raises: `ValueError` with what is wrong."""
    split = as_text(value)
    if not placed:
        return "train"
    if not split:
        raise ValueError("no split, where other rows have one")
    if split.lower() not in SPLIT_NAMES:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[split.lower()]


def check_rows(where: object, count: int, faults: list[str], splits: Collection[str], hint: str) -> None:
    """Check that every row is sound, and that there are some to train on.

    Args:
        where: what messages call the data.
        count: of the rows that could be read.
        faults: of rows, with their places.
        splits: those that have rows.
        hint: what columns such a table has.

    Raises:
        DataError: it has faults (all at once), no rows, or none to train on.
    """
    if faults:
        raise DataError(f"{where} has {len(faults)} bad rows: {first_few(faults, '; ')}.", hint="Repair or remove them; nothing was skipped.")
    if not count:
        raise DataError(f"{where} has no rows.", hint=hint)
    if "train" not in splits:
        raise DataError(f"{where} has no train rows.", hint="Mark some rows as train, or leave the split column out and let fmx deal the splits.")


def first_few(found: list[str], separator: str = ", ") -> str:
    """List the first few, and how many more there are."""
    more = f" and {len(found) - FAULTS_SHOWN} more" if len(found) > FAULTS_SHOWN else ""
    return separator.join(found[:FAULTS_SHOWN]) + more


def decode(data: bytes, where: object) -> tuple[str, str]:
    """Decode UTF-8 with or without a byte order mark, UTF-16 with one, or GB18030: the first that fits strictly.

    Returns:
        The text, and the encoding's name.

    Raises:
        DataError: none fits.
    """
    marked = data.startswith(codecs.BOM_UTF8)
    if b"\0" in data[:2] or data.startswith(codecs.BOM_UTF32_LE):  # UTF-16 without its mark, or UTF-32: valid as UTF-8, with zero bytes
        raise DataError(f"{where} is not UTF-8 text (zero byte at byte {data.index(0)}).", hint="Save it as UTF-8.")
    try:
        return data[3 * marked :].decode(), "UTF-8"
    except UnicodeDecodeError as error:
        fault, start = error, error.start + 3 * marked
    encoding = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "GB18030"
    try:
        text = data.decode(encoding)
        if encoding == "GB18030" and not _reads_as_chinese(text):
            what = f"({fault.reason} at byte {start}), and what else it is cannot be told"
            raise DataError(f"{where} is not UTF-8 text {what}.", hint="Save it as UTF-8.")
        return text, encoding
    except UnicodeDecodeError as error:
        if encoding == "UTF-16":
            raise DataError(f"{where} is not UTF-16 text ({error.reason} at byte {error.start}).", hint="Save it as UTF-8.") from error
        raise DataError(f"{where} is not UTF-8 text ({fault.reason} at byte {start}), nor GB18030.", hint="Save it as UTF-8.") from fault


def _reads_as_chinese(text: str) -> bool:
    """Tell Chinese from Big5, Shift-JIS, EUC-KR or Latin letters that GB18030 can decode too: nearly all of it is common characters and signs.

    The first level of GB 2312, sorted by sound, holds the 3,755 characters that make up over 99 % of running text.
    """
    foreign = [character for character in text if not character.isascii()][:LOOKED_AT]
    common = sum(_lead_of(character) in COMMON for character in foreign)
    different = [lead for lead in map(_lead_of, set(foreign)) if lead in COMMON]
    behind = sum(lead in BEHIND_HANGUL for lead in different)
    return common >= LEAST_COMMON * len(foreign) and (len(different) < FEW or behind >= LEAST_BEHIND * len(different))


def _lead_of(character: str) -> int:
    """Give the first of the two bytes by which GB 2312 writes a character; 0 where it does not."""
    written = character.encode("gb2312", errors="ignore")
    return written[0] if len(written) == 2 else 0


def _read_csv(path: Path, known: Collection[str], delimiter: str = "") -> Table:
    text, encoding = decode(path.read_bytes(), path)
    columns: list[str] = []
    rows: list[Row] = []
    faults: list[str] = []
    line = 1
    with _fields_up_to(len(text)):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or _delimiter(text, known), strict=True)
        try:
            columns = _once(path, [name.strip() for name in next(reader, [])])
            line = reader.line_num + 1
            for values in reader:
                if delimiter == "\t" and any("\t" in value and "\n" in value for value in values):
                    faults.append(f"line {line}: a field goes on over tabs and lines; is a quotation mark not closed?")
                elif len(values) == len(columns):
                    rows.append((f"line {line}", dict(zip(columns, values, strict=True))))
                elif values:
                    faults.append(f"line {line}: {len(values)} fields, where the header has {len(columns)}")
                line = reader.line_num + 1
        except csv.Error as error:
            faults.append(f"line {line}: {error}")
    return Table(columns, rows, faults, encoding)


@contextmanager
def _fields_up_to(length: int) -> Iterator[None]:
    """Let `csv` read fields of this length: its limit of 128 KiB is the whole process's, so it is put back."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, length))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str, known: Collection[str]) -> str:
    """Choose the delimiter that splits the header into the most known columns, then into the most columns."""
    header = (text.splitlines() or [""])[0]

    def score(delimiter: str) -> tuple[int, int]:
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
        return len(set(names) & set(known)), len(names)

    return max(DELIMITERS, key=score)


def read_jsonl(path: Path, _known: Collection[str]) -> Table:
    """Read a JSON object a line; values are whatever JSON holds."""
    text, encoding = decode(path.read_bytes(), path)
    rows: list[Row] = []
    faults: list[str] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
            reason = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
            faults.append(f"line {number}: no JSON ({reason})")
            continue
        if not isinstance(row, dict):
            faults.append(f"line {number}: no JSON object")
        elif odd := [name for name in row if name not in columns and not _is_unicode(name)]:
            faults.append(f"line {number}: a column name with a lone surrogate ({odd[0]!r})")
        else:
            rows.append((f"line {number}", row))
            columns |= dict.fromkeys(row)
    return Table(list(columns), rows, faults, encoding)


def _is_unicode(text: str) -> bool:
    """Say whether text can be written down: JSON's escapes also spell halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_parquet(path: Path, _known: Collection[str]) -> Table:
    """Read every column that holds no bytes."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("data", "Reading .parquet") from error
    try:
        table = parquet.ParquetFile(path).read()
        columns = _once(path, list(table.column_names))
        wanted = [name for name in columns if "binary" not in str(table.schema.field(name).type)]
        values = table.select(wanted).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}).", hint="Write it again, or give a .csv or .jsonl.") from error
    return Table(columns, [(f"row {number}", row) for number, row in enumerate(values, start=1)], [])


def _once(path: Path, columns: list[str]) -> list[str]:
    """Return the columns, none of which is there twice. Raises: `DataError`."""
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if "" in twice:
        hint = "Name or remove them; commas at the end of the header make some."
        raise DataError(f"{path} has {columns.count('')} columns without a name.", hint=hint)
    if twice:
        raise DataError(f"{path} has the column {twice[0]} twice.", hint="Rename or remove one of them.")
    return columns


READERS: dict[str, Reader] = {
    ".csv": _read_csv,
    ".tsv": functools.partial(_read_csv, delimiter="\t"),
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}
