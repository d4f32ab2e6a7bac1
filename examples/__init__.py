"""Worked applications: each folder is one, with a README that says how to run it and what came out."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Protocol

from fmx.errors import FmxError


class Main(Protocol):
    """A command, with the arguments of the shell where none are given."""

    def __call__(self, arguments: list[str] | None = None) -> None:
        """Run it."""


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
