"""The one error family of fmx. Each error says what is wrong, and its hint says what to do about it.

Foreign exceptions (Pillow, torch, onnxruntime, the operating system) are translated where they enter; the command line maps an error
to its exit code once (`fmx/cli/main.py`) and the service maps it to an HTTP answer once (`serve/answers.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class FmxError(Exception):
    """Say what is wrong and what to do about it.

    Attributes:
        code: stable name of the kind of error, shown to clients of the service.
        exit_code: what the command line exits with.
        http_status: what the service answers with.
    """

    code = "internal"
    exit_code = 1
    http_status = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FmxError):
    """An option or a setting that cannot be what was meant."""

    code, exit_code, http_status = "usage", 2, 400


class DataError(FmxError):
    """Training or evaluation data that cannot be used as they are."""

    code, exit_code, http_status = "data", 3, 400


class InputError(FmxError):
    """One input, from a file or a request, that is not what the task takes."""

    code, exit_code, http_status = "bad_input", 3, 400


class TooLargeError(InputError):
    """An input over a limit of bytes, pixels or rows."""

    code, http_status = "too_large", 413


class UnsupportedTypeError(InputError):
    """An input of a content type that the task does not take."""

    code, http_status = "unsupported_type", 415


class ModelError(FmxError):
    """A base model or its weights that cannot be built, found or fitted."""

    code, exit_code = "model", 4


class ExportError(FmxError):
    """A graph that could not be exported or does not compute what the model does."""

    code, exit_code = "export", 4


class BudgetError(FmxError):
    """A variant that misses the accuracy or latency that was asked for."""

    code, exit_code = "budget", 5


class PackageError(FmxError):
    """A run or model package that is damaged, altered or of an unknown kind."""

    code, exit_code, http_status = "package", 6, 503


class SurroundingsError(FmxError):
    """Something around fmx: a full disk, a missing extra, a port that is taken."""

    code, exit_code, http_status = "surroundings", 7, 503


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Translate a full or read-only disk, met while `doing`, into a `SurroundingsError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SurroundingsError(
                f"The disk is full: {doing} was stopped and its unfinished files removed.",
                hint="Free some space, or choose another disk with --out or FMX_HOME, and run the command again.",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise SurroundingsError(
                f"No permission to write {error.filename or ''} ({doing}).".replace("  ", " "),
                hint="Choose a folder that you may write with --out or FMX_HOME.",
            ) from error
        raise


@contextmanager
def foreign_errors(kind: type[FmxError], what: str, hint: str) -> Iterator[None]:
    """Translate whatever a library raises inside the block, of many kinds, into one of ours; our own errors pass.

    Args:
        kind: of the error.
        what: went wrong, before the library's first line.
        hint: what to do about it.
    """
    try:
        yield
    except FmxError:
        raise
    except Exception as error:
        raise kind(f"{what}: {first_line(error)}", hint=hint) from error


def first_line(error: BaseException) -> str:
    """Give an error's first line, or its name when it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def nearest_names(name: str, known: list[str], count: int = 3) -> str:
    """Give the known names nearest to a mistyped one, joined for a hint (empty when nothing is near)."""
    import difflib

    lowered = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), list(lowered), n=count, cutoff=0.5)
    return ", ".join(lowered[match] for match in found)


def missing_extra(extra: str, what: str) -> SurroundingsError:
    """Build the error for a library that an extra would have brought."""
    return SurroundingsError(f"{what} needs a library that is not installed.", hint=f"pip install 'fmx-toolkit[{extra}]'")
