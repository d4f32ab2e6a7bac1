from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.data.source import Item, split_items
from fmx.errors import DataError
from tests.conftest import MakeFolder, encode, image_task


def test_digits_split_is_stratified_seeded_and_complete() -> None:
    first, again, other = open_source("digits", 0), open_source("digits", 0), open_source("digits", 1)
    names = {split: [item.name for item in items] for split, items in first.splits.items()}
    assert {split: len(found) for split, found in names.items()} == {"train": 1077, "validation": 360, "test": 360}
    assert len({name for found in names.values() for name in found}) == 1797
    assert names == {split: [item.name for item in items] for split, items in again.splits.items()}
    assert names["test"] != [item.name for item in other.splits["test"]]
    assert set(np.bincount([item.label for item in first.splits["test"]])) <= {34, 35, 36, 37}


def test_split_gives_every_part_a_row_of_a_thin_class() -> None:
    items = [Item(str(i), 0 if i < 90 else 1, bytes) for i in range(93)]
    parts = split_items(items, 2, 0, {"validation": 0.1, "test": 0.1})
    assert all(any(item.label == 1 for item in part) for part in parts.values())


def test_folder_is_split_where_it_has_no_splits(digit_folder: MakeFolder) -> None:
    source = open_source(str(digit_folder(3, 10)))
    assert source.labels == ("class-0", "class-1", "class-2")
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 18, "validation": 6, "test": 6}


def test_folder_with_splits_keeps_them(digit_folder: MakeFolder, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split, images in (("train", 8), ("val", 4), ("test", 2)):
        digit_folder(2, images, root / split)
    source = open_source(str(root))
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 16, "validation": 8, "test": 4}


def test_split_without_a_middle_class_keeps_the_label_order_ultralytics_13936(digit_folder: MakeFolder, tmp_path: Path) -> None:
    """ultralytics#13936: a split that lacks a class shifted every later class."""
    root = tmp_path / "data"
    digit_folder(3, 8, root / "train")
    digit_folder(3, 4, root / "val")
    digit_folder(3, 4, root / "test")
    for file in (root / "test" / "class-1").iterdir():
        file.unlink()
    (root / "test" / "class-1").rmdir()
    source = open_source(str(root))
    assert {item.label for item in source.splits["test"]} == {0, 2}


def test_class_that_training_never_saw_is_refused_by_name(digit_folder: MakeFolder, tmp_path: Path) -> None:
    root = tmp_path / "data"
    digit_folder(2, 8, root / "train")
    digit_folder(3, 4, root / "test")
    with pytest.raises(DataError, match="class-2"):
        open_source(str(root))


def test_missing_data_suggest_a_near_name() -> None:
    with pytest.raises(DataError) as caught:
        open_source("digts")
    assert "digits" in caught.value.hint


@pytest.mark.parametrize(
    ("classes", "images", "said"), [(0, 0, "no class folders"), (1, 10, "one class"), (2, 1, "too few images in: class-0"), (2, 0, "no images")]
)
def test_folder_that_cannot_be_learnt_from_is_refused(digit_folder: MakeFolder, tmp_path: Path, classes: int, images: int, said: str) -> None:
    (tmp_path / "digits").mkdir()
    with pytest.raises(DataError, match=said) as caught:
        open_source(str(digit_folder(classes, images)))
    assert caught.value.hint


def test_bad_files_among_good_ones_are_named_and_skipped(digit_folder: MakeFolder, spec: ImageInput) -> None:
    root = digit_folder(3, 30)
    truncated, text = root / "class-0" / "005.png", root / "class-1" / "006.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    text.write_text("not an image")
    splits = read_splits(open_source(str(root)), image_task(spec))
    skipped = [fault for rows in splits.values() for fault in rows.skipped]
    assert sorted(name.rpartition("/")[2] for name, _ in skipped) == ["005.png", "006.png"]
    assert sum(len(rows) for rows in splits.values()) == 88
    for rows in splits.values():
        assert len(rows.values) == len(rows.labels) == len(rows.names)


def test_too_many_bad_files_stop_before_training(digit_folder: MakeFolder, spec: ImageInput) -> None:
    root = digit_folder(2, 20)
    for number in range(3):
        (root / "class-0" / f"{number:03d}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="3 of 40 images cannot be read"):
        read_splits(open_source(str(root)), image_task(spec))


def test_fingerprint_changes_with_one_byte(digit_folder: MakeFolder, spec: ImageInput) -> None:
    root = digit_folder(2, 10)
    before = {name: rows.fingerprint for name, rows in read_splits(open_source(str(root)), image_task(spec)).items()}
    file = root / "class-0" / "000.png"
    file.write_bytes(file.read_bytes() + b"\0")
    after = {name: rows.fingerprint for name, rows in read_splits(open_source(str(root)), image_task(spec)).items()}
    assert before != after


def make_cifar10(folder: Path, rows: int = 20) -> Path:
    """Write a folder in the layout of CIFAR-10's Python archive, with random pixels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (rows, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": [i % 10 for i in range(rows)]}, protocol=2))
    return folder


def test_cifar10_on_disk_follows_the_usual_protocol(tmp_path: Path, spec: ImageInput) -> None:
    make_cifar10(tmp_path / "data" / "cifar-10-batches-py")
    source = open_source("cifar10")
    assert source.labels[3] == "cat"
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 90, "validation": 10, "test": 20}
    assert read_splits(source, image_task(spec))["test"].values.shape == (20, 32, 32, 3)


def test_cifar10_pixels_keep_their_place(tmp_path: Path, spec: ImageInput) -> None:
    folder = make_cifar10(tmp_path / "elsewhere" / "cifar-10-batches-py")
    with (folder / "test_batch").open("rb") as file:
        pixels = pickle.load(file)[b"data"][0].reshape(3, 32, 32)
    rows = read_splits(open_source(str(folder)), image_task(spec))["test"]
    assert np.array_equal(rows.values[0], pixels.transpose(1, 2, 0))


def test_cifar10_absent_says_which_archive_goes_where(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_source("cifar10")
    assert "cifar-10-python.tar.gz" in caught.value.hint
    assert str(tmp_path / "data") in caught.value.hint


def test_cifar10_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch " + str(tmp_path / "owned"),)

    folder = make_cifar10(tmp_path / "data" / "cifar-10-batches-py")
    (folder / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(DataError, match="not allowed"):
        open_source("cifar10")
    assert not (tmp_path / "owned").exists()


def test_grey_alpha_file_in_a_folder_is_read(digit_folder: MakeFolder, spec: ImageInput) -> None:
    root = digit_folder(2, 10)
    (root / "class-0" / "extra.png").write_bytes(encode(np.zeros((9, 9, 2), dtype=np.uint8)))
    assert sum(len(rows) for rows in read_splits(open_source(str(root)), image_task(spec)).values()) == 21
