"""INPUT arguments of commands: files, folders, `-` for standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from fmx.data.folder import SUFFIXES
from fmx.errors import InputError, UsageError


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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", hint="Check its permissions.") from error
