"""INPUT arguments of commands: files, folders, texts, `-` for standard input."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path

from fmx.data.folder import SUFFIXES
from fmx.errors import InputError, UsageError
from fmx.pairs import joined

LOOKED_AT = 4096
"""Bytes of standard input that tell a text from an image."""
PAIR_SEPARATOR = " | "
"""Between the texts of a pair on the screen."""


def read_inputs(given: list[str]) -> list[tuple[str, bytes]]:
    """Read every input as (name, bytes); a folder gives its images, sorted, those in sub-folders included.

    Raises:
        UsageError: nothing there, or a folder without images.
        InputError: a file that cannot be read.
    """
    found: list[tuple[str, bytes]] = []
    for name in given:
        path = Path(name)
        if name == "-":
            found.append(("-", sys.stdin.buffer.read()))
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not files:
                raise UsageError(f"{path} holds no images.", hint=f"Known endings: {', '.join(sorted(SUFFIXES))}.")
            found += [(str(file), _read(file)) for file in files]
        elif path.exists():
            found.append((name, _read(path)))
        else:
            raise UsageError(f"There is no file or folder {name!r}.", hint="Give image files, folders, or - for standard input.")
    return found


def read_texts(given: list[str]) -> list[tuple[str, bytes]]:
    """Take every input as (text, UTF-8): a text as it is (`@@` begins one with @), `@FILE` for a file that is one text, `-` for a text a line.

    Raises:
        InputError: a file that cannot be read, or no line on standard input.
        UsageError: an image.
    """
    found: list[tuple[str, bytes]] = []
    for text in given:
        if text == "-":
            lines = [line for line in sys.stdin.buffer.read().splitlines() if line.strip()]
            if not lines:
                raise InputError("There is no text on standard input.", hint="It takes a text a line.")
            found += [(line.decode(errors="replace"), line) for line in lines]
        elif text.startswith("@") and not text.startswith("@@"):
            found.append((text, _read(Path(text[1:]))))
        elif Path(text).suffix.lower() in SUFFIXES and _exists(text):
            raise UsageError(f"{text} is an image, and this model reads texts.", hint="A file that is a text is written @FILE.")
        else:
            data = text.removeprefix("@" if text.startswith("@@") else "").encode(errors="surrogateescape")  # what the shell gave
            found.append((data.decode(errors="replace"), data))
    return found


def read_pairs(given: list[str]) -> list[tuple[str, bytes]]:
    """Take every two inputs as (both texts, the pair's bytes), as `read_texts` takes each; on standard input a line has both, with a tab between.

    Raises:
        InputError: as `read_texts`, or a line without a tab.
        UsageError: an image, or an odd number of texts.
    """
    found: list[tuple[str, bytes]] = []
    waiting: list[tuple[str, bytes]] = []
    for argument in given:
        for name, data in read_texts([argument]):
            if argument == "-":
                found.append((name.replace("\t", PAIR_SEPARATOR), _tabbed(name, data)))
                continue
            waiting.append((name, data))
            if len(waiting) == 2:
                found.append((PAIR_SEPARATOR.join(name for name, _ in waiting), joined([data for _, data in waiting])))
                waiting = []
    if waiting:
        raise UsageError(
            f"This model reads pairs of texts, and {waiting[0][0]!r} is alone.", hint="Give two texts a pair: fmx predict PACKAGE ONE OTHER."
        )
    return found


def _tabbed(name: str, line: bytes) -> bytes:
    parts = line.split(b"\t")
    if len(parts) != 2:
        raise InputError(f"A line on standard input is no pair: {name[:60]!r}.", hint="Write both texts with a tab between.")
    return joined(parts)


READERS = {"image": read_inputs, "text": read_texts, "pair": read_pairs}
"""By what a model reads."""


def are_texts(given: list[str]) -> bool:
    """Guess whether inputs are texts, where no package says what it reads: none of them is, or is called like, a file of an image."""
    return not any(Path(name).suffix.lower() in SUFFIXES or _exists(name) or (name == "-" and not _starts_as_text()) for name in given)


def _starts_as_text() -> bool:
    """Look at what comes on standard input, and leave it there: every image has bytes early on that no text has."""
    begun = sys.stdin.buffer.peek()[:LOOKED_AT]  # type: ignore[union-attr]  # it is a BufferedReader
    try:
        return bool(begun) and b"\0" not in begun and bool(codecs.getincrementaldecoder("utf-8")().decode(begun))
    except UnicodeDecodeError:
        return False


def _exists(name: str) -> bool:
    try:
        return name != "" and Path(name).exists()
    except (OSError, ValueError):  # a text that is too long for a path, or holds what no path may
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "A text that begins with @ is written @@." if isinstance(error, FileNotFoundError) else "Check its permissions."
        raise InputError(f"{path} cannot be read ({error.strerror}).", hint=hint) from error
