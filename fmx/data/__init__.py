"""Where labelled rows come from. One file a source, one interface (`Source`), no torch: `fmx eval` runs in a serving environment too.

Adding a source is a file with an opener and a line in one of the tables below; folders are recognised by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fmx.data import huggingface, torchvision
from fmx.data.cifar10 import find_cifar10, open_cifar10
from fmx.data.digits import open_digits
from fmx.data.entities import open_entities
from fmx.data.folder import open_folder
from fmx.data.huggingface import open_huggingface
from fmx.data.manifest import ENDINGS, open_manifest
from fmx.data.source import Item, Source
from fmx.data.text import GUESSED, Columns, Labelled, open_text
from fmx.data.torchvision import open_torchvision
from fmx.data.webdataset import holds_only_shards, open_webdataset
from fmx.errors import DataError, UsageError, nearest_names
from fmx.task_names import IMAGES, IN_PAIRS, LABELS, READ_TEXTS, SCORES, TOKENS

NAMED: dict[str, Callable[[int], Source]] = {"digits": open_digits, "cifar10": lambda seed: open_cifar10(find_cifar10(), seed)}
"""Data known by one name; they have no groups."""

PREFIXED: dict[str, Callable[[str, int, str | None], Source]] = {huggingface.PREFIX: open_huggingface, torchvision.PREFIX: open_torchvision}
"""Families of data sets, `hf:NAME` and `torchvision:NAME`."""

SHARDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Endings of shards; the compressed ones get an error that says what to do."""

KINDS = "a folder with one folder of images a class, a .csv, .jsonl or .parquet manifest, .tar shards, hf:NAME, torchvision:NAME"

_LABELLED: dict[str, Labelled] = {LABELS: "several", SCORES: "score"}

__all__ = [
    "GUESSED",
    "NAMED",
    "PREFIXED",
    "Columns",
    "Item",
    "Source",
    "columns_of",
    "columns_with",
    "open_source",
    "reopen_source",
    "split_of",
    "split_seed_of",
]


def open_source(
    spec: str,
    seed: int = 0,
    group_by: str | None = None,
    *,
    task: str = IMAGES,
    columns: Columns = GUESSED,
    labels_of_model: tuple[str, ...] | None = None,
) -> Source:
    """Open labelled data by name or path; the split is a function of the data and the seed.

    Args:
        spec: `digits`, `cifar10`, `hf:NAME`, `torchvision:NAME`, or the path of a folder, a manifest or shards.
        seed: of the split, where the data have none.
        group_by: what keeps rows together in one split: a manifest's or `hf:` column, or for folders and shards a regular expression on
            the file name or key.
        task: what the rows are for; a table is one of files, or of texts.
        columns: of a table of texts.
        labels_of_model: that the rows are to measure; one of scores brings its own grades.

    Raises:
        DataError: no such source, or one that cannot be learnt from.
        UsageError: `group_by` for data that cannot be grouped.
    """
    if task == TOKENS:
        return open_entities(spec, seed, group_by, columns)
    if task in READ_TEXTS:
        return open_text(
            spec, seed, group_by, columns=columns, in_pairs=task in IN_PAIRS, labelled=_LABELLED.get(task, "one"), labels_of_model=labels_of_model
        )
    if spec in NAMED:
        _refuse_groups(spec, group_by)
        return NAMED[spec](seed)
    for prefix, opener in PREFIXED.items():
        if spec.startswith(prefix):
            return opener(spec, seed, group_by)
    path = Path(spec)
    if "{" in spec and not path.exists():
        return open_webdataset(spec, seed, group_by)
    if path.is_dir():
        return _open_folder(path, spec, seed, group_by)
    if path.is_file():
        return _open_file(path, spec, seed, group_by)
    near = nearest_names(spec, [*NAMED, *PREFIXED])
    known = f"Did you mean {near}? " if near else ""
    raise DataError(f"There is no data at {spec!r}.", hint=f"{known}Give {KINDS}, or one of: {', '.join(NAMED)}.")


def reopen_source(settings: Mapping[str, Any]) -> Source:
    """Open the data of a run again, split as they were, from the settings in its run.json. Raises: `DataError`, `UsageError`."""
    columns = columns_of(settings, settings["data"])
    return open_source(settings["data"], split_seed_of(settings), settings.get("group_by"), task=settings.get("task", IMAGES), columns=columns)


def columns_of(known: Mapping[str, Any], data: str) -> Columns:
    """Give the columns that a run or package was trained with, from its settings or its manifest, where the data are the same."""
    return Columns(**{name: known.get(f"{name}_column") for name in Columns._fields}) if known.get("data") == data else GUESSED


def columns_with(known: Mapping[str, Any], data: str, told: Columns, task: str) -> Columns:
    """Give the columns to measure a run or package with: as told, or else as it was trained with, where the data are the same.

    Args:
        known: a run's settings, or what a manifest keeps of them.
        data: to be measured on.
        told: on the command line; `GUESSED` where nothing is.
        task: of the model.

    Raises:
        UsageError: columns that the task has no use for, or another query for its own data, whose rows it would deal anew.
    """
    before, unused = columns_of(known, data), told.unused(task)
    if unused:
        raise UsageError(f"{unused[0]} does nothing for {task}.", hint="Leave it out.")
    if told.query and told.query != before.query and known.get("data") == data:
        hint = "Leave it out, or train with it: rows of one query stay in one split, so training rows would become test rows."
        raise UsageError(f"{data} was split without --query-column {told.query}.", hint=hint)
    return Columns(*(new or old for new, old in zip(told, before, strict=True)))


def split_of(known: Mapping[str, Any], data: str, seed: int | None = None, group_by: str | None = None) -> tuple[int, str | None]:
    """Give the seed and the groups by which test rows are split off: as told, or else as a run or package was trained with.

    Args:
        known: a run's settings, or what a manifest keeps of them.
        data: that are split; the groups it was trained with belong to its own.
        seed: as told.
        group_by: as told.
    """
    if group_by is None and known.get("data") == data:
        group_by = known.get("group_by")
    return split_seed_of(known) if seed is None else seed, group_by


def split_seed_of(settings: Mapping[str, Any]) -> int:
    """Give the seed of a run's split: before it had one of its own, it was the training's."""
    return int(settings.get("split_seed", settings["seed"]))


def _open_folder(path: Path, spec: str, seed: int, group_by: str | None) -> Source:
    if (path / "data_batch_1").is_file():
        _refuse_groups(spec, group_by)
        return open_cifar10(path, seed)
    if holds_only_shards(path):
        return open_webdataset(spec, seed, group_by)
    return open_folder(path, seed, group_by)


def _open_file(path: Path, spec: str, seed: int, group_by: str | None) -> Source:
    if path.suffix.lower() in ENDINGS:
        return open_manifest(path, seed, group_by)
    if path.name.lower().endswith(SHARDS):
        return open_webdataset(spec, seed, group_by)
    raise DataError(f"{spec} is a file.", hint=f"Give {KINDS}.")


def _refuse_groups(spec: str, group_by: str | None) -> None:
    if group_by is not None:
        raise UsageError(f"{spec} has nothing to group by.", hint="Leave --group-by out.")
