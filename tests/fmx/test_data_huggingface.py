from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.data.digits import open_digits
from fmx.data.rows import read_splits
from fmx.errors import DataError
from tests.conftest import image_task

NAMES = ["zero", "one", "two"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    found = []
    for label in range(3):
        items = [item for item in open_digits(0).splits["train"] if item.label == label][start : start + count]
        found += [{"picture": {"bytes": item.read(), "path": None}, "label": label, "writer": i // 2} for i, item in enumerate(items)]
    return found


def table(count: int, start: int = 0, label: Any = None) -> datasets.Dataset:
    features = datasets.Features({"picture": datasets.Image(), "label": label or datasets.ClassLabel(names=NAMES), "writer": datasets.Value("int64")})
    return datasets.Dataset.from_list(rows(count, start), features=features)


def save(data: Any, folder: Path) -> str:
    data.save_to_disk(str(folder))
    return f"hf:{folder}"


def test_saved_table_is_opened_with_its_bytes_undecoded(tmp_path: Path, spec: ImageInput) -> None:
    source = open_source(save(table(10), tmp_path / "saved"))
    assert source.labels == ("zero", "one", "two")
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 18, "validation": 6, "test": 6}
    written = {row["picture"]["bytes"] for row in rows(10)}
    assert {item.read() for items in source.splits.values() for item in items} == written
    assert read_splits(source, image_task(spec))["test"].values.shape == (6, 32, 32, 3)


def test_saved_splits_are_kept_and_others_noted(tmp_path: Path) -> None:
    data = datasets.DatasetDict({"train": table(8), "validation": table(4, 8), "test": table(2, 12), "extra": table(2, 14)})
    source = open_source(save(data, tmp_path / "saved"))
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 24, "validation": 12, "test": 6}
    assert source.notes == ("Splits not used: extra.",)


def test_split_without_a_middle_class_keeps_the_label_order_ultralytics_13936(tmp_path: Path) -> None:
    """ultralytics#13936: a split that lacks a class shifted every later class."""
    held_out = table(4, 8).filter(lambda row: row["label"] != 1)
    source = open_source(save(datasets.DatasetDict({"train": table(8), "val": held_out, "test": held_out}), tmp_path / "saved"))
    assert {item.label for item in source.splits["validation"]} == {0, 2}


def test_class_that_training_never_saw_is_refused_by_name(tmp_path: Path) -> None:
    train = table(8).filter(lambda row: row["label"] != 1)
    with pytest.raises(DataError, match=r"\(test\) has classes that the training rows do not have: one"):
        open_source(save(datasets.DatasetDict({"train": train, "test": table(4, 8)}), tmp_path / "saved"))


def test_plain_label_column_and_groups_are_taken(tmp_path: Path) -> None:
    source = open_source(save(table(10, label=datasets.Value("int64")), tmp_path / "saved"), group_by="writer")
    assert source.labels == ("0", "1", "2")
    groups = [{item.group for item in items} for items in source.splits.values()]
    assert sum(len(found) for found in groups) == len(set().union(*groups)) == 5


def test_local_image_folder_is_loaded_by_path(tmp_path: Path) -> None:
    for number, row in enumerate(rows(10)):
        file = tmp_path / "pictures" / NAMES[row["label"]] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["picture"]["bytes"])
    source = open_source(f"hf:{tmp_path / 'pictures'}")
    assert sorted(source.labels) == sorted(NAMES)
    assert {item.read() for items in source.splits.values() for item in items} == {row["picture"]["bytes"] for row in rows(10)}


def test_configuration_is_named_after_the_data_set(tmp_path: Path) -> None:
    head = ["---", "configs:"]
    for config, count in (("few", 6), ("many", 12)):
        head += [f"- config_name: {config}", f"  data_files: {config}.parquet"]
        (tmp_path / "two").mkdir(exist_ok=True)
        table(count).to_parquet(str(tmp_path / "two" / f"{config}.parquet"))
    (tmp_path / "two" / "README.md").write_text("\n".join([*head, "---", ""]))
    counts = [sum(map(len, open_source(f"hf:{tmp_path / 'two'}:{config}").splits.values())) for config in ("few", "many")]
    assert counts == [18, 36]
    for wrong in ("", ":none"):
        with pytest.raises(DataError, match=r"one of its configurations: .*few.*many") as caught:
            open_source(f"hf:{tmp_path / 'two'}{wrong}")
        assert caught.value.hint.endswith(":CONFIG")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.remove_columns("picture"), "0 image columns"),
        (lambda data: data.remove_columns("label"), "no label column"),
        (lambda data: data.add_column("label2", [None] * 30).rename_columns({"label": "old", "label2": "label"}).remove_columns("old"), "no label"),
    ],
)
def test_table_without_images_or_labels_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_source(save(change(table(10)), tmp_path / "saved"))
    assert caught.value.hint


def test_group_column_that_is_not_there_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'writers'") as caught:
        open_source(save(table(10), tmp_path / "saved"), group_by="writers")
    assert "writer" in caught.value.hint


def test_hub_out_of_reach_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="'somebody/digits' could not be loaded") as caught:
        open_source("hf:somebody/digits")
    assert "save_to_disk(FOLDER)" in caught.value.hint
    assert "--data hf:FOLDER" in caught.value.hint


def test_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be read as a data set"):
        open_source(f"hf:{tmp_path / 'empty'}")


def test_damaged_saved_table_is_refused(tmp_path: Path) -> None:
    spec = save(table(10), tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read as a data set"):
        open_source(spec)


def test_reading_a_saved_table_imports_no_torch(tmp_path: Path) -> None:
    spec = save(table(10), tmp_path / "saved")
    program = f"import sys; from fmx.data import open_source; open_source({spec!r}).splits['test'][0].read(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
