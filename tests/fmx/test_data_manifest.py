from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.errors import DataError
from tests.conftest import MakeFolder, image_task

Rows = list[dict[str, Any]]


@pytest.fixture
def rows(digit_folder: MakeFolder) -> Rows:
    """Rows of 3 classes with 10 files each, whose paths are relative to the parent of the folder."""
    root = digit_folder(3, 10)
    return [
        {"path": str(file.relative_to(root.parent)), "label": file.parent.name.replace("-", " "), "split": "", "group": ""}
        for file in sorted(root.rglob("*.png"))
    ]


def write_csv(path: Path, rows: Rows, delimiter: str = ",", columns: tuple[str, ...] = ("path", "label"), start: str = "") -> Path:
    lines = [delimiter.join(columns), *(delimiter.join(f'"{row[column]}"' for column in columns) for row in rows)]
    path.write_text(start + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


def with_splits(rows: Rows) -> Rows:
    names = ["Train", "training", "train", "train", "train", "train", "val", "valid", "test", "test"]
    return [{**row, "split": names[i % 10]} for i, row in enumerate(rows)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
def test_csv_of_any_delimiter_is_read(delimiter: str, start: str, rows: Rows, tmp_path: Path) -> None:
    source = open_source(str(write_csv(tmp_path / "rows.csv", rows, delimiter, start=start)))
    assert source.labels == ("class 0", "class 1", "class 2")
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 18, "validation": 6, "test": 6}


def test_manifest_that_a_chinese_spreadsheet_saved_is_read_and_noted(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("\r\n".join(["path,label", *(f"{row['path']},{row['label'].replace('class', '类别')}" for row in rows)]).encode("gb18030"))
    source = open_source(str(path))
    assert source.labels == ("类别 0", "类别 1", "类别 2")
    assert source.notes == ("rows.csv is not UTF-8; it was read as GB18030.",)


def test_quoted_fields_hold_delimiters_and_line_ends(rows: Rows, tmp_path: Path) -> None:
    for row in rows:
        row["label"] = row["label"].replace(" 0", ", or\n0")
    source = open_source(str(write_csv(tmp_path / "rows.csv", rows)))
    assert source.labels[2] == "class, or\n0"


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(ending: str, rows: Rows, tmp_path: Path, spec: ImageInput) -> None:
    rows = with_splits(rows)
    path = tmp_path / f"rows{ending}"
    if ending == ".csv":
        write_csv(path, rows, columns=("split", "label", "path"))
    elif ending == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    source = open_source(str(path))
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 18, "validation": 6, "test": 6}
    assert [item.name for item in source.splits["test"][:2]] == ["digits/class-0/008.png", "digits/class-0/009.png"]
    assert read_splits(source, image_task(spec))["train"].values.shape == (18, 32, 32, 3)


def test_split_without_a_middle_class_keeps_the_label_order_timm_957(rows: Rows, tmp_path: Path) -> None:
    """ultralytics#13936, timm#957: the class map is the training rows', by name."""
    kept = [row for row in with_splits(rows) if not (row["split"].startswith("val") and row["label"] == "class 1")]
    source = open_source(str(write_csv(tmp_path / "rows.csv", kept, columns=("path", "label", "split"))))
    assert {item.label for item in source.splits["validation"]} == {0, 2}


def test_label_of_a_held_out_split_alone_is_refused_by_name(rows: Rows, tmp_path: Path) -> None:
    rows = with_splits(rows)
    rows[8]["label"] = "zebra"
    with pytest.raises(DataError, match=r"\(test\) has classes that the training rows do not have: zebra"):
        open_source(str(write_csv(tmp_path / "rows.csv", rows, columns=("path", "label", "split"))))


def test_bad_rows_are_reported_at_once_with_their_lines(rows: Rows, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", with_splits(rows), columns=("path", "label", "split"))
    lines = path.read_text().splitlines()
    lines[2] = '"","class 0","train"'
    lines[3] = '"a.png","","train"'
    lines[4] = '"a.png","class 0","trian"'
    lines[5] = '"a.png","class 0",""'
    lines[6] = '"a.png","","test"'
    lines[7] = '"a.png","","test"'
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        open_source(str(path))
    for said in ("6 bad rows", "line 3: no path", "line 4: no label", "line 5: split 'trian' is none of", "line 6: no split", "and 1 more"):
        assert said in caught.value.message


def test_rows_with_too_few_fields_are_reported_with_their_lines(rows: Rows, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", rows)
    path.write_text(path.read_text() + '"a.png"\n\n"a.png","b","c"\n')
    with pytest.raises(DataError, match="2 bad rows: line 32: 1 fields, where the header has 2; line 34: 3 fields"):
        open_source(str(path))


def test_bad_lines_of_jsonl_are_reported_with_their_numbers(rows: Rows, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([json.dumps(rows[0]), "{", "[1]", *(json.dumps(row) for row in rows[1:])]))
    with pytest.raises(DataError, match=r"2 bad rows: line 2: no JSON .*; line 3: no JSON object"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        (("file", "label"), "no column path", "path, label"),
        (("path", "lable"), "no column label", "for label perhaps lable"),
        (("path", "label", "spilt"), "unknown column 'spilt'", "Did you mean split"),
        (("path", "label", "label"), "column label twice", "Rename"),
    ],
)
def test_columns_that_are_missing_or_misspelt_are_named(columns: tuple[str, ...], message: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",".join(columns) + "\n" + ",".join("a" for _ in columns) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        open_source(str(path))
    assert hint in caught.value.hint


def test_own_columns_are_left_alone_and_noted(rows: Rows, tmp_path: Path) -> None:
    rows = [{**row, "width": 8, "site": "x"} for row in rows]
    source = open_source(str(write_csv(tmp_path / "rows.csv", rows, columns=("path", "label", "width", "site"))))
    assert source.notes == ("Columns not used: width, site.",)


def test_whole_numbers_as_labels_are_text_in_order_of_number(rows: Rows, tmp_path: Path) -> None:
    rows = [{"path": row["path"], "label": float([9, 10, 100][i // 10])} for i, row in enumerate(rows)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert open_source(str(tmp_path / "rows.parquet")).labels == ("9", "10", "100")


@pytest.mark.parametrize("column", ["group", "patient"])
def test_group_column_keeps_rows_together(column: str, rows: Rows, tmp_path: Path) -> None:
    rows = [{**row, column: f"p{i % 10 // 2}"} for i, row in enumerate(rows)]
    path = write_csv(tmp_path / "rows.csv", rows, columns=("path", "label", column))
    source = open_source(str(path), group_by=None if column == "group" else column)
    groups = [{item.group for item in items} for items in source.splits.values()]
    assert sum(len(found) for found in groups) == len(set().union(*groups)) == 5


def test_group_column_that_is_not_there_is_named(rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column patient"):
        open_source(str(write_csv(tmp_path / "rows.csv", rows)), group_by="patient")


def test_few_missing_files_are_skipped_and_many_stop(rows: Rows, tmp_path: Path, spec: ImageInput) -> None:
    path = write_csv(tmp_path / "rows.csv", rows)
    (tmp_path / rows[3]["path"]).unlink()
    found = read_splits(open_source(str(path)), image_task(spec))
    assert [fault for one in found.values() for fault in one.skipped] == [(rows[3]["path"], "it cannot be read (No such file or directory)")]
    (tmp_path / rows[4]["path"]).unlink()
    with pytest.raises(DataError, match=r"2 of 30 images cannot be read .*003\.png"):
        read_splits(open_source(str(path)), image_task(spec))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", b"", "no column path, label"),
        ("rows.csv", b"path,label\n", "no rows"),
        ("rows.csv", "path,label\né.png,1\n".encode("latin-1"), "not UTF-8"),
        ("rows.csv", b"path,label,split\na.png,1,test\n", "no train rows"),
        ("rows.csv", b'path,label\n"a.png,1\n', "unexpected end of data"),
        ("rows.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
    ],
)
def test_file_that_is_no_manifest_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        open_source(str(tmp_path / name))
    assert caught.value.hint


def test_images_inside_parquet_are_not_read_for_their_labels(rows: Rows, tmp_path: Path) -> None:
    rows = [{**row, "image": b"\0" * 100} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert open_source(str(tmp_path / "rows.parquet")).notes == ("Columns not used: image.",)


def test_same_files_as_a_folder_give_the_same_pixels(rows: Rows, tmp_path: Path, spec: ImageInput) -> None:
    listed = read_splits(open_source(str(write_csv(tmp_path / "rows.csv", rows))), image_task(spec))
    folder = read_splits(open_source(str(tmp_path / "digits")), image_task(spec))
    assert all(np.array_equal(listed[split].values, folder[split].values) for split in folder)
