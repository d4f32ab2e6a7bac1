"""Where labelled rows come from. One file a source, one interface (`Source`), no torch: `fmx eval` runs in a serving environment too.

Adding a source is a file with an opener and a line in `NAMED`; folders are recognised by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fmx.data.cifar10 import find_cifar10, open_cifar10
from fmx.data.digits import open_digits
from fmx.data.folder import open_folder
from fmx.data.source import Item, Source
from fmx.errors import DataError, nearest_names

NAMED: dict[str, Callable[[int], Source]] = {"digits": open_digits, "cifar10": lambda seed: open_cifar10(find_cifar10(), seed)}

__all__ = ["NAMED", "Item", "Source", "open_source"]


def open_source(spec: str, seed: int = 0, group_by: str | None = None) -> Source:
    """Open labelled data by name (`digits`, `cifar10`) or folder; the split is a function of the data and the seed.

    Raises:
        DataError: no such source, or one that cannot be learnt from.
    """
    if spec in NAMED:
        return NAMED[spec](seed)
    path = Path(spec)
    if not path.exists():
        near = nearest_names(spec, list(NAMED))
        known = f"Did you mean {near}? " if near else ""
        raise DataError(f"There is no data at {spec!r}.", hint=f"{known}Give a folder with one folder a class, or one of: {', '.join(NAMED)}.")
    if not path.is_dir():
        raise DataError(f"{spec} is a file.", hint="Give a folder with one folder of images a class.")
    if (path / "data_batch_1").is_file():
        return open_cifar10(path, seed)
    return open_folder(path, seed)
