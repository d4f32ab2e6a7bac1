"""CoNLL's format: a token a line with its tag at the end, an empty line between sentences. What the tags mean is entities.py's."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from fmx.data.tables import Row, Table, decode

ENDINGS = (".conll", ".bio", ".iob", ".iob2", ".bioes")
TAG = re.compile(r"O|[BIESLUM]-\S+")
_LINE_END = re.compile(r"\r\n|\r|\n")
_DOCUMENT = "-DOCSTART-"


def read_conll(path: Path, _known: Collection[str] = ()) -> Table:
    """Read sentences as rows of `tokens` and `tags`, lists of strings of the same length.

    Columns are parted by tabs, or by any white space where there is none; the first is the token, the last its tag. Lines that begin with `#`
    and bear no tag are comments.
    """
    text, encoding = decode(path.read_bytes(), path)
    rows: list[Row] = []
    faults: list[str] = []
    tokens: list[str] = []
    tags: list[str] = []
    first = 0
    for number, line in enumerate([*_LINE_END.split(text), ""], start=1):
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
        if not any(fields) or fields[0] == _DOCUMENT:
            if tokens:
                rows.append((f"line {first}", {"tokens": tokens, "tags": tags}))
            tokens, tags = [], []
        elif len(fields) > 1 and fields[0] and TAG.fullmatch(fields[-1]):
            first = first if tokens else number
            tokens.append(fields[0])
            tags.append(fields[-1])
        elif not line.startswith("#"):
            what = "one column" if len(fields) < 2 else f"{fields[-1]!r} is no tag" if fields[0] else "no token"
            faults.append(f"line {number}: {what}")
    return Table(["tokens", "tags"], rows, faults, encoding)
