"""Worked applications: each folder is one, with a README that says how to run it and what came out."""

from __future__ import annotations

import argparse
import csv
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from fmx.errors import FmxError


class Main(Protocol):
    """A command, with the arguments of the shell where none are given."""

    def __call__(self, arguments: list[str] | None = None) -> None:
        """Run it."""


def parser_of(name: str, about: str | None, folder: str) -> argparse.ArgumentParser:
    """Make the parser of a story, with the options that all of them have.

    Args:
        name: of its package.
        about: its docstring, of which the first line is shown.
        folder: where it works unless told.
    """
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=(about or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(folder), help="for the table, the run and the package")
    parser.add_argument("--quantize", default="int8", choices=("int8", "none"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    return parser


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a CSV that `fmx train` reads, in a folder that is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def told(story: Callable[[list[str] | None], None]) -> Main:
    """Have a story's errors printed as the command line prints them, without a traceback; it ends with their exit codes."""

    @functools.wraps(story)
    def main(arguments: list[str] | None = None) -> None:
        try:
            story(arguments)
        except FmxError as error:
            print(f"{error.message} {error.hint}".strip(), file=sys.stderr)
            raise SystemExit(error.exit_code) from error

    return main
