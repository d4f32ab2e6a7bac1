from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.data.digits import open_digits
from fmx.data.rows import read_splits
from fmx.errors import DataError
from tests.conftest import image_task

Members = list[tuple[str, bytes]]


def digits(label: int, count: int, start: int = 0) -> list[bytes]:
    return [item.read() for item in open_digits(0).splits["train"] if item.label == label][start : start + count]


def members(classes: int = 3, images: int = 10, start: int = 0, style: str = "cls") -> Members:
    """Samples `<label>/<number>.png` with a label beside them."""
    found: Members = []
    for label in range(classes):
        for number, data in enumerate(digits(label, images, start)):
            key = f"{label}/{start + number:04d}"
            sidecar = {"cls": (".cls", str(label).encode()), "text": (".cls", b"digit %d\n" % label)}.get(style)
            found += [(key + ".png", data), (key + sidecar[0], sidecar[1]) if sidecar else (key + ".json", json.dumps({"label": label}).encode())]
    return found


def write_tar(path: Path, content: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(("style", "labels"), [("cls", ("0", "1", "2")), ("text", ("digit 0", "digit 1", "digit 2")), ("json", ("0", "1", "2"))])
def test_shard_is_read_whatever_holds_the_label(style: str, labels: tuple[str, ...], tmp_path: Path, spec: ImageInput) -> None:
    source = open_source(str(write_tar(tmp_path / "digits.tar", members(style=style))))
    assert source.labels == labels
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 18, "validation": 6, "test": 6}
    rows = read_splits(source, image_task(spec))["train"]
    assert rows.names[0].startswith("digits.tar/0/")


def test_sample_is_the_bytes_that_were_written(tmp_path: Path) -> None:
    content = members()
    source = open_source(str(write_tar(tmp_path / "digits.tar", content)))
    written = {f"digits.tar/{name}": data for name, data in content}
    items = [item for found in source.splits.values() for item in found]
    assert len(items) == 30
    assert all(item.read() == written[item.name] for item in items)
    assert all(item.size is not None and item.size() == len(written[item.name]) for item in items)


def test_pattern_opens_its_shards_in_order(tmp_path: Path) -> None:
    for number in range(8, 12):
        write_tar(tmp_path / f"part-{number:03d}.tar", members(images=4, start=4 * (number - 8)))
    source = open_source(str(tmp_path / "part-{008..011}.tar"))
    assert sum(len(items) for items in source.splits.values()) == 48
    with pytest.raises(DataError, match=r"1 shards of .* are missing: .*part-012\.tar"):
        open_source(str(tmp_path / "part-{008..012}.tar"))


@pytest.mark.parametrize("layout", ["{split}/000.tar", "{split}-000.tar", "{split}000.tar"])
def test_split_names_of_folders_or_shards_are_kept(layout: str, tmp_path: Path) -> None:
    for split, images, start in (("train", 8, 0), ("val", 4, 8), ("test", 2, 12)):
        write_tar(tmp_path / "data" / layout.format(split=split), members(images=images, start=start))
    source = open_source(str(tmp_path / "data"))
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 24, "validation": 12, "test": 6}


def test_shard_without_a_split_among_others_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "data" / "train-0.tar", members())
    write_tar(tmp_path / "data" / "training2.tar", members())
    write_tar(tmp_path / "data" / "more.tar", members())
    with pytest.raises(DataError, match=r"but not more\.tar"):
        open_source(str(tmp_path / "data"))


def test_numbers_are_looked_up_in_classes_txt(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "classes.txt").write_text("zero\none\ntwo\nthree\n")
    write_tar(tmp_path / "data" / "a.tar", members())
    assert open_source(str(tmp_path / "data")).labels == ("zero", "one", "two")
    (tmp_path / "data" / "classes.txt").write_text("zero\none\n")
    with pytest.raises(DataError, match=r"label '2', which classes\.txt does not know"):
        open_source(str(tmp_path / "data"))


def test_labels_of_numbers_are_in_order_of_number(tmp_path: Path) -> None:
    content = [(name.replace("2/", "10/"), b"10" if data == b"2" else data) for name, data in members()]
    assert open_source(str(write_tar(tmp_path / "a.tar", content))).labels == ("0", "1", "10")


def test_group_is_found_in_the_key(tmp_path: Path) -> None:
    source = open_source(str(write_tar(tmp_path / "a.tar", members())), group_by=r"/000(\d)")
    groups = [{item.group for item in items} for items in source.splits.values()]
    assert sum(len(found) for found in groups) == len(set().union(*groups)) == 10


def test_copies_in_shards_stay_in_one_split(tmp_path: Path) -> None:
    content = members()
    copies = [(f"copy-{name}", data) for name, data in content]
    source = open_source(str(write_tar(tmp_path / "a.tar", [*content, *copies])))
    splits: dict[bytes, set[str]] = {}
    for split, items in source.splits.items():
        for item in items:
            splits.setdefault(item.read(), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([("a.png", b"x")], "the sample a has no label"),
        ([("a.cls", b"1")], "the sample a has no image"),
        ([("a.png", b"x"), ("a.jpg", b"y"), ("a.cls", b"1")], "the sample a has 2 images"),
        ([("a.png", b"x"), ("a.json", b"{")], r"a\.json cannot be read"),
        ([("a.png", b"x"), ("a.json", b"[]")], r"a\.json cannot be read"),
        ([("a.png", b"x"), ("a.cls", b"\xff")], r"a\.cls cannot be read"),
        ([("notes.txt", b"x")], "no training samples"),
    ],
)
def test_sample_that_is_incomplete_is_refused_by_name(content: Members, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_source(str(write_tar(tmp_path / "a.tar", content)))
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_compressed_shard_says_how_to_unpack_it(name: str, tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "plain.tar", members())
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(DataError, match="is compressed") as caught:
        open_source(str(tmp_path / name))
    assert "gunzip" in caught.value.hint


@pytest.mark.parametrize("fault", ["cut", "noise", "header", "text"])
def test_damaged_shard_is_refused(fault: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members())
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as shard:
        place = shard.getmembers()[20].offset
    if fault == "cut":
        data = data[: place + 700]
    elif fault == "noise":
        data[place : place + 512] = np.random.default_rng(0).bytes(512)
    elif fault == "header":
        data[place + 150] ^= 0xFF
    else:
        data = bytearray(b"no tar at all" * 100)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is damaged|is no whole tar"):
        open_source(str(path))


def test_folder_of_images_with_one_tar_beside_is_a_folder(tmp_path: Path) -> None:
    content = members()
    for name, data in content:
        if name.endswith(".png"):
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name).write_bytes(data)
    write_tar(tmp_path / "data" / "backup.tar", content)
    assert open_source(str(tmp_path / "data")).labels == ("0", "1", "2")
