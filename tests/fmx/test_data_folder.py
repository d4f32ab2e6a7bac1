from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.errors import DataError
from tests.conftest import MakeFolder, image_task


def make_splits(digit_folder: MakeFolder, root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        digit_folder(3, 8, root / name)
    return root


def test_held_out_splits_without_training_rows_are_refused(digit_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_splits(digit_folder, tmp_path / "data", ("val", "test"))
    with pytest.raises(DataError, match="has test and val, but no train folder") as caught:
        open_source(str(root))
    assert "train/" in caught.value.hint


def test_class_called_train_is_a_class_when_it_holds_images(digit_folder: MakeFolder) -> None:
    root = digit_folder(3, 10)
    (root / "class-2").rename(root / "train")
    source = open_source(str(root))
    assert source.labels == ("class-0", "class-1", "train")
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 18, "validation": 6, "test": 6}


def test_split_folders_that_hold_images_themselves_are_no_classes(digit_folder: MakeFolder) -> None:
    root = digit_folder(2, 10)
    (root / "class-0").rename(root / "train")
    (root / "class-1").rename(root / "test")
    with pytest.raises(DataError, match="holds images, not class folders"):
        open_source(str(root))


def test_split_folders_of_both_kinds_are_refused(digit_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_splits(digit_folder, tmp_path / "data", ("train", "val"))
    shutil.copytree(root / "train" / "class-0", root / "test")
    with pytest.raises(DataError, match="test holds images, but train holds class folders"):
        open_source(str(root))


def test_two_folders_for_one_split_are_refused(digit_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_splits(digit_folder, tmp_path / "data", ("train", "val", "valid", "test"))
    with pytest.raises(DataError, match="two folders for validation: val and valid"):
        open_source(str(root))


def test_folders_beside_the_splits_are_named_in_a_note(digit_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_splits(digit_folder, tmp_path / "data", ("train", "val", "test", "unlabelled"))
    assert open_source(str(root)).notes == ("Not used, beside the split folders: unlabelled.",)


@pytest.mark.parametrize("split", ["val", "test"])
def test_split_without_a_middle_class_scores_like_the_whole_one_restricted(
    split: str, digit_folder: MakeFolder, tmp_path: Path, spec: ImageInput
) -> None:
    """ultralytics#13936, timm#211, timm#957: a held-out split that lacks a class folder shifted every later class."""
    root = make_splits(digit_folder, tmp_path / "data", ("train", "val", "test"))
    name = {"val": "validation"}.get(split, split)
    whole = read_splits(open_source(str(root)), image_task(spec))[name]
    shutil.rmtree(root / split / "class-1")
    source = open_source(str(root))
    part = read_splits(source, image_task(spec))[name]
    kept = whole.labels != 1
    assert source.labels == ("class-0", "class-1", "class-2")
    assert np.array_equal(part.labels, whole.labels[kept])
    assert np.array_equal(part.values, whole.values[kept])
    assert part.names == tuple(np.array(whole.names)[kept])


def test_class_of_a_held_out_split_alone_is_refused_by_name_ultralytics_26192(digit_folder: MakeFolder, tmp_path: Path) -> None:
    """ultralytics PR#26192: classes that only the validation rows have were given indices of their own."""
    root = make_splits(digit_folder, tmp_path / "data", ("train", "val", "test"))
    shutil.rmtree(root / "train" / "class-1")
    with pytest.raises(DataError, match="classes that the training rows do not have: class-1"):
        open_source(str(root))
