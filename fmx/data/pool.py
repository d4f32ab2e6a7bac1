"""A folder of images without labels: to learn pseudo-labels from, or to choose from what to label next."""

from __future__ import annotations

from pathlib import Path

from fmx.contract import ImageInput
from fmx.data.folder import SUFFIXES, find_images
from fmx.data.rows import Rows, read_splits
from fmx.data.source import Item, Source
from fmx.errors import DataError
from fmx.tasks import ImageClassification


def read_pool(root: Path, spec: ImageInput) -> Rows:
    """Decode every image below a folder, sorted by path; their labels are all 0 and mean nothing.

    Raises:
        DataError: no such folder, no images, or more than 5 % of them unreadable.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.", hint="Give a folder of images; sub-folders are searched too.")
    files = find_images(root)
    if not files:
        raise DataError(f"{root} holds no images.", hint=f"Known endings: {', '.join(sorted(SUFFIXES))}.")
    items = [Item(str(path.relative_to(root)), 0, path.read_bytes) for path in files]
    return read_splits(Source(str(root), ("unlabelled",), {"train": items}), ImageClassification(("unlabelled",), spec), ("train",))["train"]
