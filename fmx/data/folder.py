"""A folder with one folder of images a class, with or without train/val/test folders above them."""

from __future__ import annotations

from pathlib import Path

from fmx.data.source import HELD_OUT, Item, Source, check_classes, split_items
from fmx.errors import DataError, disk_errors

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def open_folder(root: Path, seed: int) -> Source:
    """Open a folder of folders; splits that are missing are dealt out of the training rows, stratified and seeded.

    Raises:
        DataError: empty, one class, a class with too few images, or a split with a class that training never saw.
    """
    folders = {SPLIT_NAMES[path.name.lower()]: path for path in _folders(root) if path.name.lower() in SPLIT_NAMES}
    train_root = folders.get("train", root)
    labels = tuple(path.name for path in _folders(train_root))
    if not labels:
        raise DataError(f"{train_root} holds no class folders.", hint="Put one folder of images a class into it.")
    splits = {name: _items(path, labels) for name, path in folders.items()} if "train" in folders else {"train": _items(root, labels)}
    missing = {name: HELD_OUT for name in ("validation", "test") if not splits.get(name)}
    check_classes(splits["train"], labels, 1 + len(missing), str(train_root))
    if missing:
        splits |= split_items(splits["train"], len(labels), seed, missing)
    return Source(str(root), labels, splits)


def _folders(root: Path) -> list[Path]:
    with disk_errors(f"reading {root}"):
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _items(root: Path, labels: tuple[str, ...]) -> list[Item]:
    index = {label: i for i, label in enumerate(labels)}
    unknown = [path.name for path in _folders(root) if path.name not in index]
    if unknown:
        raise DataError(
            f"{root} has classes that the training rows do not have: {', '.join(unknown)}.",
            hint="Labels come from the training rows; add the class there or remove it here.",
        )
    return [
        Item(str(path.relative_to(root.parent)), index[folder.name], path.read_bytes)
        for folder in _folders(root)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
