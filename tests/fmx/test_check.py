"""One fault of every kind is planted in a folder, and `fmx data check` must find each."""

from __future__ import annotations

import functools
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.data.check import check_source, find_leakage
from fmx.data.check.duplicates import _candidates, near_pairs
from fmx.data.check.files import ends_early, read_facts
from fmx.data.check.findings import KINDS, Finding
from fmx.data.check.thumbnails import row_thumbnails
from fmx.data.rows import Rows, read_splits
from fmx.data.source import Item, Source
from tests.conftest import MakeFolder, encode, image_task


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A smooth random picture, unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def save(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image, "JPEG", quality=95, exif=exif)


def sixteen_bits(seed: int) -> bytes:
    grey = np.asarray(picture(seed).convert("L"), dtype=np.uint16)
    return encode(grey * 257)


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "unreadable": ("text.png", lambda: b"not an image"),
    "truncated": ("cut.jpg", lambda: encode(picture(9000), "JPEG", quality=95)[:900]),
    "wrong-extension": ("png.jpg", lambda: encode(picture(9001))),
    "animated": ("moving.gif", lambda: encode(picture(9002), "GIF", save_all=True, append_images=[picture(9003)])),
    "rotated": ("turned.jpg", lambda: turned(picture(9004))),
    "cmyk": ("print.jpg", lambda: encode(picture(9005).convert("CMYK"), "JPEG", quality=95)),
    "16-bit": ("scan.png", lambda: sixteen_bits(9006)),
    "palette": ("palette.png", lambda: encode(picture(9007).quantize(64))),
    "alpha": ("alpha.png", lambda: encode(picture(9008).convert("RGBA"))),
    "grey": ("grey.png", lambda: encode(picture(9009).convert("L"))),
    "tiny": ("tiny.png", lambda: encode(picture(9010, (20, 15)))),
    "huge": ("huge.png", lambda: encode(Image.new("L", (8000, 6300), 128), compress_level=1)),
    "elongated": ("long.png", lambda: encode(picture(9011, (400, 40)))),
}
"""Kind -> a file of class a in the training rows"""

ALSO = {"grey": 3, "palette": 2}
"""Kinds that other planted files show too: the scan and the huge image are grey, a GIF has a palette."""


def plant(root: Path) -> dict[str, str]:
    """Make the folder; returns what must be named for each kind."""
    number = 0
    for split, images in (("train", 30), ("val", 6), ("test", 6)):
        for label in ("a", "b", "c"):
            for index in range(images):
                number += 1
                save(root / split / label / f"{index:02d}.png", encode(picture(number)))
    for name, make in FILES.values():
        save(root / "train" / "a" / name, make())
    named = {kind: name for kind, (name, _) in FILES.items()}

    train, test = root / "train", root / "test"
    shutil.copy(train / "b" / "00.png", train / "b" / "copy.png")
    shutil.copy(train / "b" / "01.png", test / "b" / "leaked.png")
    shutil.copy(train / "b" / "02.png", train / "c" / "relabelled.png")
    save(train / "b" / "again.jpg", reencoded(train / "b" / "03.png"))
    save(test / "b" / "smaller.png", resized(train / "b" / "04.png"))
    save(train / "c" / "similar.jpg", reencoded(train / "b" / "05.png"))
    named |= {"copies": "b/copy.png", "copies-across-splits": "b/leaked.png", "copies-across-labels": "c/relabelled.png"}
    named |= {"near-copies": "b/again.jpg", "near-copies-across-splits": "b/smaller.png", "near-copies-across-labels": "c/similar.jpg"}

    for index in range(3):
        save(root / "train" / "rare" / f"{index}.png", encode(picture(5000 + index)))
    save(root / "val" / "rare" / "0.png", encode(picture(5003)))
    return named | {"imbalance": "rare (3 of 43)", "missing-class": "rare (test)"}


def reencoded(path: Path) -> bytes:
    with Image.open(path) as image:
        return encode(image, "JPEG", quality=40)


def resized(path: Path) -> bytes:
    with Image.open(path) as image:
        return encode(image.resize((48, 32)))


def run_check(source: object, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fmx", "data", "check", str(source), *options], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("planted") / "data"
    return root, plant(root)


@pytest.fixture(scope="module")
def report(planted: tuple[Path, dict[str, str]]) -> dict[str, Any]:
    done = run_check(planted[0], "--json")
    assert done.returncode == 3, done.stderr
    assert "training would be misled" in done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


PLANTED_KINDS = sorted(set(KINDS) - {"unknown-class", "many-unreadable"})


@pytest.mark.parametrize("kind", PLANTED_KINDS)
def test_planted_fault_is_found(kind: str, report: dict[str, Any], planted: tuple[Path, dict[str, str]]) -> None:
    found = {finding["kind"]: finding for finding in report["findings"]}[kind]
    assert any(planted[1][kind] in example for example in found["examples"])
    assert found["count"] == ALSO.get(kind, 1)
    assert found["severity"] == KINDS[kind].severity


def test_report_counts_every_class_and_split(report: dict[str, Any]) -> None:
    assert report["rows"] == {"train": 110, "validation": 19, "test": 20}
    assert report["classes"][3] == {"label": "rare", "train": 3, "validation": 1, "test": 0}
    assert report["formats"]["JPEG"] == 4
    assert report["spreads"]["width"] == {"least": 20, "median": 96, "most": 8000}


def test_findings_are_worst_first(report: dict[str, Any]) -> None:
    severities = [finding["severity"] for finding in report["findings"]]
    assert severities == sorted(severities, key=("error", "warning", "note").index)


def test_report_for_a_person_names_files_and_advice(planted: tuple[Path, dict[str, str]]) -> None:
    done = run_check(planted[0])
    assert done.returncode == 3
    assert "error: 1 image in two splits, byte for byte [copies-across-splits]" in done.stdout
    assert "test/b/leaked.png" in done.stdout
    assert "Nothing stands against training" not in done.stdout


def test_clean_folder_gives_no_error_and_no_warning(tmp_path: Path) -> None:
    for label in range(3):
        for index in range(20):
            save(tmp_path / "clean" / f"class-{label}" / f"{index}.jpg", encode(picture(100 * label + index), "JPEG", quality=90))
    done = run_check(tmp_path / "clean")
    assert done.returncode == 0, done.stderr
    assert "Nothing was found." in done.stdout
    assert f"fmx train --data {tmp_path / 'clean'}" in done.stdout


def test_class_that_training_never_sees_is_an_error_by_name(planted: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(planted[0] / "val", tmp_path / "data" / split)
    save(tmp_path / "data" / "test" / "zebra" / "0.png", encode(picture(1)))
    done = run_check(tmp_path / "data")
    assert done.returncode == 3
    assert "zebra" in done.stderr


def test_label_that_the_source_does_not_know_is_an_error() -> None:
    items = {"train": [Item(f"{i}", i % 3, functools.partial(encode, picture(i))) for i in range(6)]}
    found = {one.kind: one for one in check_source(Source("made", ("a", "b"), items), near=False).findings}
    assert found["unknown-class"].count == 2
    assert found["unknown-class"].severity == "error"


def test_more_unreadable_files_than_training_takes_are_an_error(digit_folder: MakeFolder) -> None:
    root = digit_folder(2, 20)
    for number in range(3):
        (root / "class-0" / f"{number:03d}.png").write_bytes(b"broken%d" % number)
    found = {one.kind: one for one in check_source(open_source(str(root))).findings}
    assert found["many-unreadable"].count == found["unreadable"].count == 3


def test_missing_file_of_a_manifest_is_named(digit_folder: MakeFolder, tmp_path: Path) -> None:
    root = digit_folder(2, 20)
    lines = [f"digits/{file.relative_to(root)},{file.parent.name}" for file in root.rglob("*.png")]
    (tmp_path / "rows.csv").write_text("\n".join(["path,label", *lines]))
    (root / "class-0" / "004.png").unlink()
    found = {one.kind: one for one in check_source(open_source(str(tmp_path / "rows.csv"))).findings}
    assert found["unreadable"].examples == ("digits/class-0/004.png (No such file or directory)",)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encode(image, "JPEG", quality=20),
        lambda image: encode(image, "WEBP", quality=30),
        lambda image: encode(image.resize((image.width // 5, image.height // 5))),
        lambda image: encode(image.resize((image.width * 2, image.height * 2)), "JPEG", quality=75),
        lambda image: encode(image.resize((100, 100)), "JPEG", quality=60),
    ],
    ids=["jpeg-20", "webp-30", "fifth", "double", "squashed"],
)
def test_copy_of_a_photograph_is_found_however_it_was_saved(change: Callable[[Image.Image], bytes], tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    items = [data for image in photographs for data in (encode(image), change(image))]
    source = Source("photographs", ("a",), {"train": [Item(f"{i}", 0, functools.partial(bytes, data)) for i, data in enumerate(items)]})
    found = {one.kind: one for one in check_source(source).findings}
    assert found["near-copies"].count == 2


@pytest.mark.parametrize(
    "change",
    [lambda image: encode(image, "JPEG", quality=40), lambda image: encode(image.resize((90, 70)))],
    ids=["jpeg-40", "half"],
)
def test_nine_in_ten_copies_of_small_crops_are_found_and_nothing_else(change: Callable[[Image.Image], bytes]) -> None:
    """Crops of two photographs, even sky and petals among them: harder than whole photographs."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    boxes = [(x, y, x + 90, y + 70) for y in range(0, 420, 70) for x in range(0, 630, 90)]
    crops = [image.crop(box).resize((180, 140), Image.Resampling.BICUBIC) for image in photographs for box in boxes]
    files = [*map(encode, crops), *map(change, crops)]
    thumbnails = np.zeros((len(files), 32, 32), np.uint8)
    for index, data in enumerate(files):
        read_facts(Item(str(index), 0, functools.partial(bytes, data)), thumbnails[index])
    pairs = near_pairs(thumbnails)
    assert set((pairs[:, 1] - pairs[:, 0]).tolist()) == {len(crops)}
    assert len(pairs) >= 0.9 * len(crops)


def test_different_digits_are_not_near_copies() -> None:
    kinds = {one.kind for one in check_source(open_source("digits")).findings}
    assert kinds == {"tiny", "grey"}


def test_dark_and_even_pictures_are_not_near_copies_for_being_dark() -> None:
    noise = np.random.default_rng(0).integers(0, 12, (50, 32, 32), dtype=np.uint8)
    assert len(near_pairs(noise)) == 0
    assert len(near_pairs(np.full((50, 32, 32), 7, np.uint8))) == 0


def test_candidates_stay_in_proportion_where_all_hashes_are_alike() -> None:
    hashes = np.random.default_rng(0).integers(0, 4, 5_000).astype(np.uint64)
    assert len(_candidates(hashes)) < 150 * 5_000


def test_no_near_leaves_near_copies_out(planted: tuple[Path, dict[str, str]]) -> None:
    done = run_check(planted[0], "--json", "--no-near")
    assert done.returncode == 3
    assert not any(finding["kind"].startswith("near") for finding in json.loads(done.stdout)["findings"])


def test_group_by_of_the_command_line_reaches_the_source(digit_folder: MakeFolder) -> None:
    done = run_check(digit_folder(2, 10), "--group-by", "(")
    assert done.returncode == 2
    assert "no regular expression" in done.stderr


def test_help_shows_an_example() -> None:
    done = subprocess.run([sys.executable, "-m", "fmx", "data", "check", "--help"], capture_output=True, text=True, check=True)
    assert "fmx data check photos/" in done.stdout


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_stop_the_check() -> None:
    """Files with bytes changed at random, later frames included: readable or not, but no other error."""
    random = np.random.default_rng(0)
    files = [encode(picture(1, (30, 20)), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF")]
    files += [encode(picture(2, (30, 20)), kind, save_all=True, append_images=[picture(3, (30, 20))]) for kind in ("GIF", "WEBP", "PNG", "TIFF")]
    readable = 0
    for number in range(1800):
        damaged = bytearray(files[number % len(files)])
        for position in random.integers(0, len(damaged), 3):
            damaged[position] = random.integers(0, 256)
        readable += read_facts(Item("a.png", 0, functools.partial(bytes, damaged)), np.zeros((32, 32), np.uint8)).readable
    assert 0 < readable < 1800


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_whole_file_does_not_end_early_and_a_cut_one_does(kind: str) -> None:
    data = encode(picture(1), kind)
    assert not ends_early(data)
    assert ends_early(data[:-40])


def clean_rows(spec: ImageInput, tmp_path: Path) -> dict[str, Rows]:
    for split, start in (("train", 0), ("val", 200), ("test", 400)):
        for label in ("a", "b"):
            for index in range(12):
                seed = start + index + (50 if label == "b" else 0)
                save(tmp_path / "data" / split / label / f"{index:02d}.png", encode(picture(seed, (64, 64))))
    return read_splits(open_source(str(tmp_path / "data")), image_task(spec))


def test_leakage_of_clean_rows_is_nothing(tmp_path: Path, spec: ImageInput) -> None:
    assert find_leakage(clean_rows(spec, tmp_path)) == ()


def test_leakage_finds_copies_and_look_alikes_plantseg_11(tmp_path: Path, spec: ImageInput) -> None:
    """PlantSeg#11, imagenette#47: validation was inflated by images that were in training too."""
    clean_rows(spec, tmp_path)
    root = tmp_path / "data"
    shutil.copy(root / "train" / "a" / "00.png", root / "test" / "a" / "leaked.png")
    shutil.copy(root / "train" / "a" / "01.png", root / "train" / "b" / "relabelled.png")
    save(root / "val" / "b" / "similar.jpg", reencoded(root / "train" / "b" / "02.png"))
    save(root / "train" / "b" / "inside.jpg", reencoded(root / "train" / "b" / "03.png"))
    found = find_leakage(read_splits(open_source(str(root)), image_task(spec)))
    assert [(one.kind, one.severity, one.count) for one in found] == [
        ("copies-across-splits", "error", 1),
        ("copies-across-labels", "error", 1),
        ("near-copies-across-splits", "warning", 1),
    ]
    assert "test/a/leaked.png" in found[0].examples[0]
    assert "val/b/similar.jpg" in found[2].examples[0]


def test_leakage_of_rows_without_digests_still_compares_pixels(tmp_path: Path, spec: ImageInput) -> None:
    rows = clean_rows(spec, tmp_path)
    without = {split: replace(found, digests=()) for split, found in rows.items()}
    assert find_leakage(without) == ()
    found = find_leakage({**without, "test": without["train"]})
    assert [(one.kind, one.count) for one in found] == [("near-copies-across-splits", 24)]


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (100, 70), (32, 32)])
def test_thumbnails_of_rows_are_area_means(size: tuple[int, int]) -> None:
    image = picture(3, size)
    expected = np.asarray(Image.open(io.BytesIO(encode(image))).convert("L").resize((32, 32), Image.Resampling.BOX), dtype=int)
    found = row_thumbnails(np.asarray(image)[None])[0].astype(int)
    assert np.abs(found - expected).mean() < 2


def test_one_of_a_kind_is_said_in_the_singular() -> None:
    for kind in KINDS:
        one, two = (Finding(kind, "note", count, ("x",)).message for count in (1, 2))
        assert one.split()[1] + ("es" if one.split()[1] == "class" else "s") == two.split()[1]
        assert one.split()[2:] == two.split()[2:]
