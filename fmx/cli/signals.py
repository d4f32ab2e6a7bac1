"""What SIGTERM and Ctrl-C do to a command: it ends with 143 or 130 at whatever moment they come, and nothing is left half-written."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from fmx.errors import missing_extra

_asked: list[int] = []
_loading: list[bool] = []


def install() -> None:
    """Take the two signals, but for a Ctrl-C that a shell has its background jobs ignore."""
    _asked.clear()
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def exit_code_asked_for() -> int | None:
    """Give the exit code of the signal that came, or None: a library that it met in the middle may have made another error of it."""
    return 128 + _asked[-1] if _asked else None


@contextmanager
def loading(extra: str, what: str) -> Iterator[None]:
    """Import heavy libraries inside the block.

    Nothing is at stake yet, and an exception in the middle of torch's own start can abort the process: a signal ends it at once.

    Args:
        extra: that brings the libraries.
        what: needs them, for the message.

    Raises:
        SurroundingsError: one is not installed.
    """
    _loading.append(True)
    try:
        yield
    except ImportError as error:
        raise missing_extra(extra, what) from error
    finally:
        _loading.pop()


def _end(number: int, frame: FrameType | None) -> NoReturn:
    _asked.append(number)
    if _loading:
        os._exit(128 + number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
