"""Data sets of Hugging Face's `datasets`: a name on the hub, a local folder that it can load, or one that `save_to_disk` left.

Images are taken as the bytes that they are stored as; decoding them is fmx/images.py's, as for every other source.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fmx.data.source import SPLIT_NAMES, SPLITS, Item, Source, label_items, sort_labels
from fmx.data.splitting import complete_splits
from fmx.errors import DataError, first_line, missing_extra, nearest_names

PREFIX = "hf:"
LABEL_COLUMNS = ("label", "labels", "fine_label")
_SAVED = ("dataset_dict.json", "state.json")


def open_huggingface(spec: str, seed: int, group_by: str | None = None) -> Source:
    """Open `hf:NAME_OR_PATH[:CONFIG]`; the image column is the one with images, the label column the one with classes, or called label.

    Args:
        spec: with or without `hf:`.
        seed: of the split where the data have none.
        group_by: the column that holds the group.

    Raises:
        DataError: not there, not reachable, or without an image or a label column.
        SurroundingsError: `datasets` is not installed.
    """
    tables, notes = load_tables(spec)
    image, label = _columns(spec, tables["train"].features)
    if group_by and group_by not in tables["train"].features:
        near = nearest_names(group_by, list(tables["train"].features))
        raise DataError(
            f"{spec} has no column {group_by!r}.", hint=f"Did you mean {near}?" if near else f"Columns: {', '.join(tables['train'].features)}."
        )
    found = {split: _rows(spec, split, table, image, label, group_by) for split, table in tables.items()}
    labels = sort_classes(getattr(tables["train"].features[label], "names", None), (name for name, _ in found["train"]))
    return Source(spec, labels, complete_splits(label_items(found, labels, spec), labels, seed, spec), notes=notes)


def load_tables(spec: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Load the splits of a data set that fmx knows, with `train` among them.

    Returns:
        A `datasets.Dataset` a split, and notes on splits that are not used.

    Raises:
        DataError: not there, not reachable, or without a train split.
        SurroundingsError: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("data", "Reading Hugging Face data sets") from error
    return _splits(spec, _load(spec.removeprefix(PREFIX)), datasets.Dataset)


def sort_classes(names: list[str] | None, used: Iterable[str]) -> tuple[str, ...]:
    """Keep the class order of the data set, where it has one, without classes that no training row has."""
    found = set(used)
    return tuple(name for name in dict.fromkeys(names) if name in found) if names else sort_labels(found)


def _load(name: str) -> Any:
    """Load from disk or the hub. The result is a `Dataset` or a dict of them; `datasets` has no types."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    configuration = None
    if ":" in name and not Path(name).exists():
        name, _, configuration = name.rpartition(":")
    path = Path(name)
    try:
        if any((path / marker).is_file() for marker in _SAVED):
            if configuration:
                raise DataError(f"{path} was saved from one configuration and has no {configuration!r}.", hint=f"Leave it out: {PREFIX}{name}")
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, configuration)
    except (datasets.exceptions.DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
        if "Config name is missing" in str(error) or "BuilderConfig" in str(error):
            raise DataError(f"{name} is read by one of its configurations: {_listed(error)}", hint=f"Name one: {PREFIX}{name}:CONFIG") from error
        reason = first_line(error).rstrip(".")
        if path.exists():
            raise DataError(
                f"{path} cannot be read as a data set ({reason}).", hint="Give a folder that Dataset.save_to_disk wrote, or hub files."
            ) from error
        arguments = f"{name!r}, {configuration!r}" if configuration else f"{name!r}"
        raise DataError(
            f"The data set {name!r} could not be loaded ({reason}).",
            hint=f"Check the name and the network. Offline: where there is a network, run datasets.load_dataset({arguments}).save_to_disk(FOLDER), "
            "copy FOLDER here and give --data hf:FOLDER.",
        ) from error


def _listed(error: Exception) -> str:
    """Give the configurations that `datasets` lists in its message."""
    found = re.search(r"\[[^\]]*\]", str(error))
    return f"{found.group(0).strip('[]')}." if found else str(error)


def _splits(spec: str, loaded: Any, dataset_type: type) -> tuple[dict[str, Any], tuple[str, ...]]:
    if isinstance(loaded, dataset_type):
        return {"train": loaded}, ()
    tables: dict[str, Any] = {}
    for name, table in loaded.items():
        split = SPLIT_NAMES.get(name.lower())
        if split in tables:
            raise DataError(f"{spec} has two splits for {split}.", hint="Save it with one of them: DatasetDict(...).save_to_disk(FOLDER).")
        if split:
            tables[split] = table
    if "train" not in tables:
        raise DataError(f"{spec} has no train split; its splits: {', '.join(loaded)}.", hint="Rename one with DatasetDict, and save_to_disk.")
    unused = [name for name in loaded if name.lower() not in SPLIT_NAMES]
    return {split: tables[split] for split in SPLITS if split in tables}, (f"Splits not used: {', '.join(unused)}.",) if unused else ()


def _columns(spec: str, features: Any) -> tuple[str, str]:
    """Find the image and the label column. Raises: `DataError`."""
    import datasets

    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = [name for name in LABEL_COLUMNS if name in features] or classes
    if len(images) == 1 and labels:
        return images[0], labels[0]
    what = f"{len(images)} image columns" if len(images) != 1 else "no label column"
    raise DataError(
        f"{spec} has {what}; its columns: {', '.join(f'{name} ({type(feature).__name__})' for name, feature in features.items())}.",
        hint="One column must be an Image feature, and one a ClassLabel or called label; see cast_column and rename_column.",
    )


def _rows(spec: str, split: str, table: Any, image: str, label: str, group_by: str | None) -> list[tuple[str, Item]]:
    names = getattr(table.features[label], "names", None)
    values = table[label][:]
    groups = [None if value is None else str(value) for value in table[group_by][:]] if group_by else [None] * len(values)
    unlabelled = [i for i, value in enumerate(values) if value is None or (names and not 0 <= value < len(names))]
    if unlabelled:
        raise DataError(f"{spec}: {len(unlabelled)} {split} rows have no label, the first is row {unlabelled[0]}.", hint="Filter them out first.")
    stored = table.select_columns([image]).cast_column(image, type(table.features[image])(decode=False))
    return [
        (names[value] if names else str(value), Item(f"{split}[{i}]", -1, functools.partial(_read, stored, image, i), group))
        for i, (value, group) in enumerate(zip(values, groups, strict=True))
    ]


def _read(table: Any, image: str, index: int) -> bytes:
    stored = table[index][image] or {}
    if stored.get("bytes"):
        return bytes(stored["bytes"])
    return Path(stored["path"]).read_bytes() if stored.get("path") else b""
