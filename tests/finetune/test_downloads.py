from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from finetune.downloads import TORCHVISION_SETS, ensure_downloaded
from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.errors import DataError
from tests.conftest import image_task


def test_torchvision_set_is_written_once_and_opened_without_torch(tmp_path: Path, spec: ImageInput) -> None:
    from torchvision.datasets import FakeData

    ensure_downloaded("torchvision:FakeData")
    folder = tmp_path / "data" / "torchvision-FakeData"
    manifest = folder / "manifest.csv"
    written = manifest.stat().st_mtime_ns
    ensure_downloaded("torchvision:FakeData")
    assert manifest.stat().st_mtime_ns == written
    source = open_source("torchvision:FakeData")
    assert source.labels == ("0", "1", "2", "3")
    assert source.suggested_size == 64
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 160, "validation": 40, "test": 60}
    image, label = FakeData(size=60, image_size=(3, 32, 32), num_classes=4, random_offset=200)[5]
    with Image.open(folder / "test" / "000005.png") as stored:
        assert stored.tobytes() == image.tobytes()
    with manifest.open(newline="") as file:
        assert {row["path"]: row["label"] for row in csv.DictReader(file)}["test/000005.png"] == str(label)
    assert len(read_splits(source, image_task(spec))["test"]) == 60


def test_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(csv, "writer", stop)
    with pytest.raises(KeyboardInterrupt):
        ensure_downloaded("torchvision:FakeData")
    assert not list((tmp_path / "data").iterdir())


def test_torchvision_set_out_of_reach_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="torchvision:FashionMNIST could not be downloaded") as caught:
        ensure_downloaded("torchvision:FashionMNIST")
    assert "train-images-idx3-ubyte.gz" in caught.value.hint
    assert str(tmp_path / "data" / "torchvision-archives" / "FashionMNIST" / "raw") in caught.value.hint


def test_unknown_torchvision_set_suggests_near_names() -> None:
    with pytest.raises(DataError, match="not known") as caught:
        ensure_downloaded("torchvision:FashonMNIST")
    assert "FashionMNIST" in caught.value.hint


def test_torchvision_set_not_written_yet_says_how(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not at .*torchvision-FashionMNIST") as caught:
        open_source("torchvision:FashionMNIST")
    assert "fmx train --data torchvision:FashionMNIST" in caught.value.hint


@pytest.mark.parametrize("name", sorted(TORCHVISION_SETS))
def test_every_set_of_the_table_is_one_of_torchvisions(name: str) -> None:
    import inspect

    from torchvision import datasets

    parameters = inspect.signature(getattr(datasets, name)).parameters
    for arguments in TORCHVISION_SETS[name].splits.values():
        assert set(arguments) <= set(parameters)
    assert ("download" in parameters) == TORCHVISION_SETS[name].downloads
