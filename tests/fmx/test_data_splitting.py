from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fmx.data import open_source
from fmx.data.parallel import in_threads
from fmx.data.source import Item, Source, sort_labels, split_items
from fmx.data.splitting import deal, find_clusters
from fmx.errors import DataError, UsageError
from tests.conftest import MakeFolder

PARTS = {"validation": 0.2, "test": 0.2}


def content(index: int) -> bytes:
    return index.to_bytes(4, "little")


def grouped_items(groups: dict[str, tuple[int, int]]) -> list[Item]:
    """Items of `groups`: name -> (label, rows)."""
    rows = [(group, label) for group, (label, count) in groups.items() for _ in range(count)]
    return [Item(f"{i}", label, functools.partial(content, i), group) for i, (group, label) in enumerate(rows)]


def names_of(source: Source) -> dict[str, list[str]]:
    return {split: [item.name for item in items] for split, items in source.splits.items()}


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, "212fc7b7b164775a91ea58900c592e7e343b12f6d8bb1ff9c8061efaf67b10c6"),
        (7, "22d1cb2411271c423f416a96bfb48de082a072d7216bb40e70a85a6122d57632"),
    ],
)
def test_split_of_the_digits_is_the_one_that_published_numbers_were_measured_on(seed: int, expected: str) -> None:
    found = json.dumps(names_of(open_source("digits", seed)), sort_keys=True)
    assert hashlib.sha256(found.encode()).hexdigest() == expected


def test_split_without_groups_and_copies_is_split_items(digit_folder: MakeFolder) -> None:
    root = digit_folder(4, 23)
    source = open_source(str(root), 3)
    files = sorted(path for path in root.rglob("*.png"))
    items = [Item(str(path.relative_to(root.parent)), int(path.parent.name[-1]), path.read_bytes) for path in files]
    plain = split_items(items, 4, 3, PARTS)
    assert names_of(source) == {split: [item.name for item in found] for split, found in plain.items()}


def test_groups_are_dealt_whole_stratified_and_seeded() -> None:
    random = np.random.default_rng(0)
    items = grouped_items({f"g{n}": (n % 3, int(random.integers(1, 12))) for n in range(90)})
    dealt = deal(items, ("a", "b", "c"), 0, PARTS)
    again, other = deal(items, ("a", "b", "c"), 0, PARTS), deal(items, ("a", "b", "c"), 1, PARTS)
    groups = {split: {item.group for item in found} for split, found in dealt.items()}
    assert not groups["train"] & groups["validation"]
    assert not groups["train"] & groups["test"]
    assert not groups["validation"] & groups["test"]
    assert sorted(item.name for found in dealt.values() for item in found) == sorted(item.name for item in items)
    sizes = np.bincount([item.label for item in items])
    for split, share in (("validation", 0.2), ("test", 0.2), ("train", 0.6)):
        assert np.bincount([item.label for item in dealt[split]]) == pytest.approx(sizes * share, abs=4)
    assert dealt == again
    assert dealt != other


def test_groups_with_rows_of_several_classes_are_dealt_whole() -> None:
    items = [Item(str(i), i % 3, functools.partial(content, i), f"patient-{i // 7}") for i in range(210)]
    dealt = deal(items, ("a", "b", "c"), 0, PARTS)
    splits = {item.group: {split for split, found in dealt.items() if item in found} for item in items}
    assert all(len(found) == 1 for found in splits.values())
    assert {split: {item.label for item in found} for split, found in dealt.items()} == {split: {0, 1, 2} for split in dealt}
    assert 30 <= len(dealt["test"]) <= 56


def test_one_large_group_goes_to_training() -> None:
    items = grouped_items({"large": (0, 80), "b": (0, 5), "c": (0, 5), "d": (0, 10), **{f"e{n}": (1, 10) for n in range(10)}})
    dealt = deal(items, ("a", "b"), 0, PARTS)
    assert "large" in {item.group for item in dealt["train"]}
    assert all(any(item.label == 0 for item in found) for found in dealt.values())


def test_fewer_groups_than_splits_are_refused_by_name() -> None:
    items = grouped_items({"p1": (0, 20), "p2": (0, 20), **{f"q{n}": (1, 5) for n in range(6)}})
    with pytest.raises(DataError, match=r"Too few groups to deal into 3 splits in: cat \(2\)") as caught:
        deal(items, ("cat", "dog"), 0, PARTS)
    assert "a group for every split" in caught.value.hint


def test_clusters_join_groups_that_share_a_file() -> None:
    def item(name: str, data: bytes, group: str | None) -> Item:
        return Item(name, 0, lambda: data, group, lambda: len(data))

    items = [item("a", b"1", "g"), item("b", b"2", "g"), item("c", b"2", "h"), item("d", b"3", "h"), item("e", b"4", None), item("f", b"44", None)]
    assert find_clusters(items).tolist() == [0, 0, 0, 0, 1, 2]


def test_copies_in_a_folder_stay_in_one_split_plantseg_11(digit_folder: MakeFolder) -> None:
    """PlantSeg#11: 265 groups of copies, 70 of them between test and train."""
    root = digit_folder(3, 20)
    for number in range(10):
        original = root / "class-1" / f"{number:03d}.png"
        (root / "class-1" / f"copy-{number:03d}.png").write_bytes(original.read_bytes())
    for seed in range(5):
        splits: dict[bytes, set[str]] = {}
        for split, items in open_source(str(root), seed).splits.items():
            for item in items:
                splits.setdefault(item.read(), set()).add(split)
        assert all(len(found) == 1 for found in splits.values())


def test_copies_alone_do_not_fill_the_splits(digit_folder: MakeFolder) -> None:
    root = digit_folder(2, 10)
    for file in (root / "class-0").iterdir():
        file.write_bytes((root / "class-1" / "000.png").read_bytes())
    with pytest.raises(DataError, match=r"Too few groups .* class-0 \(1\)"):
        open_source(str(root))


def test_folder_is_grouped_by_file_names(digit_folder: MakeFolder) -> None:
    """Video frames were split across train and val (image-annotator PR#93)."""
    root = digit_folder(2, 40)
    for folder in root.iterdir():
        for file in sorted(folder.iterdir()):
            file.rename(folder / f"patient{int(file.stem) // 5}_{file.name}")
    source = open_source(str(root), group_by=r"patient(\d+)_")
    groups = {split: {item.group for item in items} for split, items in source.splits.items()}
    assert Counter(group for found in groups.values() for group in found) == Counter({str(n): 1 for n in range(8)})


def test_group_in_two_given_splits_is_refused(digit_folder: MakeFolder, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        digit_folder(2, 6, tmp_path / "data" / split)
    with pytest.raises(DataError, match="6 groups are in more than one split: 000"):
        open_source(str(tmp_path / "data"), group_by=r"(\d+)\.png")


@pytest.mark.parametrize("group_by", ["(", "patient"])
def test_group_expression_that_cannot_work_is_refused(digit_folder: MakeFolder, group_by: str) -> None:
    with pytest.raises(UsageError, match="--group-by"):
        open_source(str(digit_folder(2, 10)), group_by=group_by)


def test_names_without_a_group_are_refused(digit_folder: MakeFolder) -> None:
    with pytest.raises(DataError, match=r"finds no group in 10 names: .*001\.png"):
        open_source(str(digit_folder(2, 10)), group_by=r"00([02468])")


def test_data_without_groups_refuse_to_be_grouped() -> None:
    with pytest.raises(UsageError, match="nothing to group by"):
        open_source("digits", group_by="x")


def test_labels_that_are_numbers_are_in_order_of_number() -> None:
    assert sort_labels(["10", "9", "1", "9"]) == ("1", "9", "10")
    assert sort_labels(["10", "9", "b"]) == ("10", "9", "b")


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 25_003])
def test_threads_call_every_index_once(count: int) -> None:
    called: list[int] = []
    in_threads(called.append, count, "counting")
    assert sorted(called) == list(range(count))
