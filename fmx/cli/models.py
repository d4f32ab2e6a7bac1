"""RUN|PACKAGE arguments of commands."""

from __future__ import annotations

from pathlib import Path

from fmx.errors import UsageError
from fmx.package import find_package
from fmx.run import RUN_FILE, Run, find_run, load_run


def find_model(given: str) -> Run | Path:
    """Find a package's folder, or else a run.

    Raises:
        UsageError: it is neither; the message is the one about packages.
    """
    if (Path(given) / RUN_FILE).is_file():
        return load_run(Path(given))
    try:
        return find_package(given)
    except UsageError as no_package:
        try:
            return load_run(find_run(given))
        except UsageError:
            raise no_package from None
