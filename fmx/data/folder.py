"""A folder with one folder of images a class, with or without train/val/test folders above them."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from fmx.data.source import SPLIT_NAMES, Item, Source, unknown_classes
from fmx.data.splitting import complete_splits
from fmx.errors import DataError, UsageError, disk_errors

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
_ONE_FOLDER_A_CLASS = "Put one folder of images a class into it."


def open_folder(root: Path, seed: int, group_by: str | None = None) -> Source:
    r"""Open a folder of folders; splits that are missing are dealt out of the training rows, stratified and seeded.

    Args:
        root: the folder.
        seed: of the split.
        group_by: a regular expression on the file name whose first group is the group, such as `patient(\d+)_`.

    Raises:
        DataError: empty, one class, a class with too few images, no training rows, or a split with a class that training never saw.
        UsageError: `group_by` is no such expression.
    """
    pattern = compile_group(group_by)
    folders = _split_folders(root)
    train_root = folders.get("train", root)
    labels = tuple(path.name for path in _folders(train_root))
    if not labels:
        raise DataError(f"{train_root} holds no class folders.", hint=_ONE_FOLDER_A_CLASS)
    splits = {name: _items(path, labels, pattern) for name, path in folders.items()} or {"train": _items(root, labels, pattern)}
    check_grouped(splits, group_by, str(root))
    return Source(str(root), labels, complete_splits(splits, labels, seed, str(train_root)), notes=_notes(root, folders))


def compile_group(group_by: str | None) -> re.Pattern[str] | None:
    """Compile the expression that finds a group in a name. Raises: `UsageError`."""
    if group_by is None:
        return None
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UsageError(f"--group-by {group_by!r} is no regular expression ({error}).", hint=r"For example: 'patient(\d+)_'.") from error
    if not pattern.groups:
        raise UsageError(f"--group-by {group_by!r} has no group in parentheses.", hint=r"For example: 'patient(\d+)_'.")
    return pattern


def find_group(pattern: re.Pattern[str] | None, name: str) -> str | None:
    """Return the group that a name belongs to; None where the expression does not match."""
    found = pattern.search(name) if pattern else None
    return found[1] if found else None


def check_grouped(splits: dict[str, list[Item]], group_by: str | None, where: str) -> None:
    """Check that an expression found every row's group: a row without one could end up away from its kin.

    Raises:
        DataError: some rows have no group.
    """
    alone = [item.name for items in splits.values() for item in items if item.group is None] if group_by else []
    if alone:
        raise DataError(
            f"{where}: --group-by {group_by!r} finds no group in {len(alone)} names: {', '.join(alone[:5])}{' ...' if len(alone) > 5 else ''}.",
            hint="Widen the expression so that its first group matches in every file name.",
        )


def _split_folders(root: Path) -> dict[str, Path]:
    """Find the train/val/test folders; one that holds images itself is a class of that name, unless there is nothing else."""
    children = _folders(root)
    named = [path for path in children if path.name.lower() in SPLIT_NAMES]
    holding = [path for path in named if _holds_images(path)]
    if holding and len(holding) == len(children):
        raise DataError(f"{holding[0]} holds images, not class folders.", hint=_ONE_FOLDER_A_CLASS)
    folders: dict[str, Path] = {}
    for path in named:
        if path in holding:
            continue
        split = SPLIT_NAMES[path.name.lower()]
        if split in folders:
            raise DataError(f"{root} has two folders for {split}: {folders[split].name} and {path.name}.", hint="Merge them.")
        folders[split] = path
    if folders and holding:
        raise DataError(f"{holding[0]} holds images, but {next(iter(folders.values())).name} holds class folders.", hint=_ONE_FOLDER_A_CLASS)
    if folders and "train" not in folders:
        raise DataError(
            f"{root} has {' and '.join(path.name for path in folders.values())}, but no train folder.",
            hint="Add train/ with one folder of images a class; or, for fmx to deal the splits, put the class folders right into it.",
        )
    return folders


def _notes(root: Path, folders: dict[str, Path]) -> tuple[str, ...]:
    beside = [path.name for path in _folders(root) if path not in folders.values()] if folders else []
    return (f"Not used, beside the split folders: {', '.join(beside)}.",) if beside else ()


def _holds_images(folder: Path) -> bool:
    with disk_errors(f"reading {folder}"):
        return any(_is_image(path) for path in folder.iterdir())


def _folders(root: Path) -> list[Path]:
    with disk_errors(f"reading {root}"):
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_images(folder: Path) -> list[Path]:
    """List the images below a folder, sub-folders included, sorted by path; hidden files are left out."""
    return sorted(path for path in folder.rglob("*") if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def _items(root: Path, labels: tuple[str, ...], pattern: re.Pattern[str] | None) -> list[Item]:
    index = {label: i for i, label in enumerate(labels)}
    unknown = [path.name for path in _folders(root) if path.name not in index]
    if unknown:
        raise unknown_classes(str(root), unknown)
    return [
        Item(
            str(path.relative_to(root.parent)),
            index[folder.name],
            path.read_bytes,
            find_group(pattern, path.name),
            functools.partial(os.path.getsize, path),
        )
        for folder in _folders(root)
        for path in find_images(folder)
    ]
