from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from fmx.data.source import Item, Source
from fmx.data.text import Columns, open_text
from fmx.errors import DataError

Rows = list[dict[str, Any]]

ODD = [
    "  两端有空格，中间有逗号  ",
    "line one\nline two\r\nline three\n",
    'he said "no", twice: ""',
    "family 👨‍👩‍👧‍👦 and flag 🇨🇳",
    "e\u0301 is not é, and \u0928\u093f is one letter",
    "a\tb|c;d",
    "zero\0byte",
    "\ufeffmark, and \u2028 a separator",
]
"""Texts that a reader may bend."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def make_rows(count: int = 10, labels: tuple[str, ...] = ("bad", "good"), **more: Any) -> Rows:
    return [{"text": f"the {label} text number {i}", "label": label, **more} for i in range(count) for label in labels]


def write(path: Path, rows: Rows, encoding: str = "utf-8", delimiter: str = ",") -> str:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(encoding))
    else:
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def items_of(source: Source) -> list[Item]:
    return [item for items in source.splits.values() for item in items]


def texts_of(source: Source) -> set[str]:
    return {item.read().decode() for item in items_of(source)}


def sizes_of(source: Source) -> dict[str, int]:
    return {split: len(items) for split, items in source.splits.items()}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_texts_as_they_are(ending: str, tmp_path: Path) -> None:
    rows = make_rows() + [{"text": text, "label": "odd"} for text in ODD]
    source = open_text(write(tmp_path / f"rows{ending}", rows))
    assert source.labels == ("bad", "good", "odd")
    assert texts_of(source) == {row["text"] for row in rows}
    assert sizes_of(source)["train"] == 16
    assert not source.notes
    assert {item.read().decode(): source.labels[item.label] for item in items_of(source)} == {row["text"]: row["label"] for row in rows}


@pytest.mark.parametrize(("ending", "first"), [(".csv", "line 2"), (".tsv", "line 2"), (".jsonl", "line 1"), (".parquet", "row 1")])
def test_items_are_named_by_their_place_and_know_their_size(ending: str, first: str, tmp_path: Path) -> None:
    rows = make_rows()
    named = {item.name: item for item in items_of(open_text(write(tmp_path / f"rows{ending}", rows)))}
    assert named[first].read().decode() == rows[0]["text"]
    assert all(item.size is not None and item.size() == len(item.read()) for item in named.values())


def test_row_after_line_ends_in_quotes_is_named_by_its_first_line(tmp_path: Path) -> None:
    rows = [{"text": "one\ntwo\nthree", "label": "bad"}, *make_rows()]
    named = {item.name: item.read().decode() for item in items_of(open_text(write(tmp_path / "rows.csv", rows)))}
    assert named["line 2"] == "one\ntwo\nthree"
    assert named["line 5"] == "the bad text number 0"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_of_csv_is_found(delimiter: str, tmp_path: Path) -> None:
    rows = make_rows() + [{"text": text, "label": "odd"} for text in ODD]
    assert texts_of(open_text(write(tmp_path / "rows.csv", rows, delimiter=delimiter))) == {row["text"] for row in rows}


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
@pytest.mark.parametrize(
    ("encoding", "mark", "said"),
    [
        ("utf-8", b"", ""),
        ("utf-8-sig", b"", ""),
        ("utf-16-le", b"\xff\xfe", "UTF-16"),
        ("utf-16-be", b"\xfe\xff", "UTF-16"),
        ("gb18030", b"", "GB18030"),
    ],
)
def test_encoding_is_found_and_noted(ending: str, encoding: str, mark: bytes, said: str, tmp_path: Path) -> None:
    rows = [{"文本": f"第{i}条：物流很快，下次还来👍\n㐀", "标签": "好评"} for i in range(5)]
    rows += [{"文本": f"第{i}条：质量太差，“退货”𠀀", "标签": "差评"} for i in range(5)]
    path = Path(write(tmp_path / f"rows{ending}", rows, encoding))
    path.write_bytes(mark + path.read_bytes())
    source = open_text(str(path))
    assert set(source.labels) == {"好评", "差评"}
    assert texts_of(source) == {row["文本"] for row in rows}
    assert [note for note in source.notes if "UTF-8" in note] == ([f"{path.name} is not UTF-8; it was read as {said}."] if said else [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"text,label\ncaf\xe9,good\n", "is not UTF-8 text .* at byte 14"),
        (b"\xef\xbb\xbftext,label\ncaf\xe9,good\n", "is not UTF-8 text .* at byte 17"),
        (b"\xff\xfet\0e\0x\0t\0\x00\xd8", "is not UTF-16 text .* at byte 10"),
        ("text,label\nno mark,good\n".encode("utf-16-le"), "is not UTF-8 text .* at byte 1"),
        ("text,label\nno mark,good\n".encode("utf-32"), "is not UTF-8 text"),
    ],
)
def test_file_in_no_known_encoding_is_refused_with_the_place(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        open_text(str(tmp_path / "rows.csv"))
    assert caught.value.hint == "Save it as UTF-8."


def test_long_field_is_read_and_the_limit_of_csv_put_back(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = "长" * 100_000 + "x" * 100_000
    rows = [*make_rows(), {"text": long, "label": "bad"}]
    assert long in texts_of(open_text(write(tmp_path / "rows.csv", rows)))
    (tmp_path / "open.csv").write_text('text,label\n"open,good\n')
    with pytest.raises(DataError, match="line 2: unexpected end of data"):
        open_text(str(tmp_path / "open.csv"))
    assert csv.field_size_limit() == limit


def test_rows_with_the_wrong_number_of_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\na,"b\nc",d\n\ngood text,good\nalone\n')
    with pytest.raises(DataError, match="2 bad rows: line 2: 3 fields, where the header has 2; line 6: 1 fields"):
        open_text(str(path))


def test_bad_lines_of_jsonl_are_named_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = [
        r'{"text": "half \ud800 pair", "label": "good"}',
        '{"text": 3, "label": "good"}',
        '{"text": ["a"], "label": "good"}',
        '{"text": "a"}',
        '{"text": "a", "label": NaN}',
        '{"text": "a", "label": ["x", "y"]}',
        r'{"text": "a", "label": "\udc00"}',
        "[" * 100_000,
        '{"text": "a", "label": ' + "9" * 5000 + "}",
        r'{"text": "a", "label": "good", "\ud800": 1}',
    ]
    for line, said in zip(
        bad,
        [
            r"text has a lone surrogate \(U\+D800 at character 6\)",
            r"text is no string but int",
            r"text is no string but list",
            "no label",
            "no label",
            "label is no string or number",
            r"label has a lone surrogate \(U\+DC00",
            "no JSON",
            "no JSON",
            "a column name with a lone surrogate",
        ],
        strict=True,
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(3)) + line + "\n")
        with pytest.raises(DataError, match=f"1 bad rows: line 7: {said}"):
            open_text(str(path))
    path.write_text("\n".join([json.dumps(make_rows()[0]), *bad]))
    with pytest.raises(DataError, match=r"10 bad rows: .* and 5 more"):
        open_text(str(path))


def test_escaped_pairs_and_zero_bytes_of_jsonl_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"\U0001f600 {i} \0", "label": "ab"[i % 2]}) + "\r\n" for i in range(6)))
    assert "\\ud83d\\ude00" in path.read_text()
    assert texts_of(open_text(str(path))) == {f"\U0001f600 {i} \0" for i in range(6)}


def test_text_that_is_a_number_in_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"6 bad rows: row 1: text is no string but int; row 2"):
        open_text(write(tmp_path / "rows.parquet", [{"text": i, "label": "ab"[i % 2]} for i in range(6)]))


def test_text_that_is_bytes_in_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the column text holds no text or numbers"):
        open_text(write(tmp_path / "rows.parquet", [{"text": b"a", "label": "ab"[i % 2]} for i in range(6)]))


@pytest.mark.parametrize(
    ("columns", "taken"),
    [
        (("Review", "SENTIMENT"), "Texts are taken from the column Review, labels from SENTIMENT."),
        (("text", "intent"), "Texts are taken from the column text, labels from intent."),
        (("评论", "类别"), "Texts are taken from the column 评论, labels from 类别."),
        (("foo", "bar"), "Texts are taken from the column foo, labels from bar."),
        (("Text", "mood"), "Texts are taken from the column Text, labels from mood."),
        (("what", "Class"), "Texts are taken from the column what, labels from Class."),
    ],
)
def test_columns_are_guessed_and_noted(columns: tuple[str, str], taken: str, tmp_path: Path) -> None:
    rows = [{columns[1]: row["label"], columns[0]: row["text"], "split": "", "group": ""} for row in make_rows()]
    source = open_text(write(tmp_path / "rows.csv", rows))
    assert source.labels == ("bad", "good")
    assert source.notes == (taken,)


def test_likelier_column_is_taken_and_the_others_noted(tmp_path: Path) -> None:
    rows = [{"id": i, "title": "t", "topic": "x", **row} for i, row in enumerate(make_rows())]
    source = open_text(write(tmp_path / "rows.csv", rows))
    assert source.labels == ("bad", "good")
    assert source.notes == ("Columns not used: id, title, topic.",)


def test_named_columns_are_taken(tmp_path: Path) -> None:
    rows = [{"title": row["text"], "topic": row["label"], "text": "same", "label": "same"} for row in make_rows()]
    source = open_text(write(tmp_path / "rows.csv", rows), columns=Columns("title", "topic"))
    assert texts_of(source) == {row["title"] for row in rows}
    assert source.notes == ("Columns not used: text, label.",)


def test_label_column_called_group_is_no_group(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "group": row["label"]} for row in make_rows()]
    source = open_text(write(tmp_path / "rows.csv", rows), columns=Columns(label="group"))
    assert source.labels == ("bad", "good")
    assert {item.group for item in items_of(source)} == {None}


@pytest.mark.parametrize("options", [{"columns": Columns("revew")}, {"columns": Columns(label="revew")}, {"group_by": "revew"}])
def test_named_column_that_is_not_there_gets_the_nearest(options: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"review": row["text"], "label": row["label"], "id": i} for i, row in enumerate(make_rows())]
    with pytest.raises(DataError, match=r"no column 'revew'; its columns: review, label, id\.") as caught:
        open_text(write(tmp_path / "rows.csv", rows), **options)
    for said in ("Did you mean review?", "--text-column", "--label-column"):
        assert said in caught.value.hint


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        (("a", "b", "c"), {}, "known to hold a text and a label; its columns: a, b, c"),
        (("text", "b", "c"), {}, "known to hold a label; its columns"),
        (("a", "b", "label"), {}, "known to hold a text; its columns"),
        (("text",), {}, "known to hold a label"),
        (("text", "label"), {"columns": Columns("label", "label")}, "column label cannot be both"),
    ],
)
def test_columns_that_cannot_be_guessed_are_refused(columns: tuple[str, ...], options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_text(write(tmp_path / "rows.csv", [dict.fromkeys(columns, "x")]), **options)
    assert "--text-column and --label-column" in caught.value.hint


def test_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label,label\na,b,c\n")
    with pytest.raises(DataError, match="column label twice"):
        open_text(str(tmp_path / "rows.csv"))
    table = pyarrow.table([["a"], ["b"], ["c"]], names=["text", "label", "label"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="column label twice"):
        open_text(str(tmp_path / "rows.parquet"))


def test_split_column_is_honoured(tmp_path: Path) -> None:
    names = ["train"] * 5 + ["Training", "VAL", "valid", "test", "test"]
    rows = [{**row, "Split": names[i // 2]} for i, row in enumerate(make_rows())]
    source = open_text(write(tmp_path / "rows.csv", rows))
    assert sizes_of(source) == {"train": 12, "validation": 4, "test": 4}
    assert not source.notes
    rows[3]["Split"], rows[4]["Split"] = "", "trian"
    with pytest.raises(DataError, match="2 bad rows: line 5: no split, where other rows have one; line 6: split 'trian' is none of"):
        open_text(write(tmp_path / "rows.csv", rows))


def test_split_is_dealt_by_class_and_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", make_rows())
    first, again, other = open_text(path), open_text(path), open_text(path, seed=1)
    assert sizes_of(first) == {"train": 12, "validation": 4, "test": 4}
    names = [[item.name for item in items_of(source)] for source in (first, again, other)]
    assert names[0] == names[1] != names[2]
    assert [sum(item.label for item in items) for items in first.splits.values()] == [6, 2, 2]


def test_folder_with_a_file_a_split_is_opened(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    write(root / "train.csv", make_rows(6), "gb18030", delimiter=";")
    write(root / "Valid.jsonl", [{**row, "text": f"{row['text']}."} for row in make_rows(2)])
    write(root / "test.parquet", [{**row, "text": f"{row['text']}!"} for row in make_rows(3)])
    write(root / "old.tsv", make_rows(1))
    (root / "README.md").write_text("# Read me")
    source = open_text(str(root))
    assert sizes_of(source) == {"train": 12, "validation": 4, "test": 6}
    assert [source.splits[split][0].name for split in source.splits] == ["train.csv line 2", "Valid.jsonl line 1", "test.parquet row 1"]
    assert source.notes == ("Files not used: old.tsv.",)
    write(root / "train.csv", [{"text": f"第{i}条", "label": label} for i in range(6) for label in ("bad", "good")], "gb18030")
    assert "train.csv is not UTF-8; it was read as GB18030." in open_text(str(root)).notes


def test_folder_with_train_alone_is_dealt(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", make_rows())
    source = open_text(str(tmp_path))
    assert sizes_of(source) == {"train": 12, "validation": 4, "test": 4}
    assert "line 1" in {item.name for item in items_of(source)}


def test_folder_that_has_no_clear_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train file; its tables: none"):
        open_text(str(tmp_path))
    write(tmp_path / "reviews.tsv", make_rows())
    with pytest.raises(DataError, match=r"no train file; its tables: reviews\.tsv") as caught:
        open_text(str(tmp_path))
    assert "Call one train.tsv" in caught.value.hint
    write(tmp_path / "train.tsv", make_rows())
    write(tmp_path / "training.csv", make_rows())
    with pytest.raises(DataError, match=r"two files for train: train\.tsv, training\.csv"):
        open_text(str(tmp_path))


def test_files_of_a_folder_are_named_in_what_is_wrong(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", make_rows())
    write(tmp_path / "test.csv", [{"text": "x", "label": ""}])
    with pytest.raises(DataError, match=r"1 bad rows: test\.csv line 2: no label"):
        open_text(str(tmp_path))
    write(tmp_path / "test.csv", [{"text": "x", "class": "good"}])
    with pytest.raises(DataError, match=r"test\.csv has no column 'label'; its columns: text, class"):
        open_text(str(tmp_path))
    write(tmp_path / "test.csv", [{"text": "x", "label": "zebra"}])
    with pytest.raises(DataError, match=r"\(test\) has classes that the training rows do not have: zebra"):
        open_text(str(tmp_path))


@pytest.mark.parametrize("column", ["group", "customer"])
def test_groups_stay_in_one_split(column: str, tmp_path: Path) -> None:
    rows = [{**row, column: f"c{i % 5}"} for i, row in enumerate(make_rows(15))]
    source = open_text(write(tmp_path / "rows.csv", rows), group_by=None if column == "group" else column)
    groups = [{item.group for item in items} for items in source.splits.values()]
    assert sum(len(found) for found in groups) == len(set().union(*groups)) == 5
    rows = [{**row, "split": "train" if i < 20 else "test"} for i, row in enumerate(rows)]
    with pytest.raises(DataError, match="5 groups are in more than one split: c0, c1"):
        open_text(write(tmp_path / "rows.csv", rows), group_by=column)


def test_same_text_stays_in_one_split(tmp_path: Path) -> None:
    rows = make_rows(10) * 3 + [{"text": "the bad text number 0 ", "label": "bad"}]
    splits = [{item.read() for item in items} for items in open_text(write(tmp_path / "rows.jsonl", rows)).splits.values()]
    assert sum(map(len, splits)) == len(set().union(*splits)) == 21


def test_class_of_one_repeated_text_is_refused(tmp_path: Path) -> None:
    rows = make_rows(10, ("good",)) + [{"text": "same", "label": "bad"}] * 10
    with pytest.raises(DataError, match=r"Too few groups to deal into 3 splits in: bad \(1\)") as caught:
        open_text(write(tmp_path / "rows.csv", rows))
    assert "rows with the same bytes" in caught.value.hint


def test_white_space_around_labels_is_removed_and_noted(tmp_path: Path) -> None:
    rows = make_rows()
    rows[0]["label"], rows[1]["label"], rows[2]["label"] = " bad", "good\u3000", "bad\n"
    source = open_text(write(tmp_path / "rows.csv", rows))
    assert source.labels == ("bad", "good")
    assert source.notes == ("White space around the label was removed in 3 rows.",)


def test_labels_that_differ_by_case_stay_apart_and_are_noted(tmp_path: Path) -> None:
    source = open_text(write(tmp_path / "rows.csv", make_rows(5, ("Positive", "positive", "negative", "NEGATIVE", "neutral"))))
    assert len(source.labels) == 5
    assert source.notes == ("Labels that differ only by case are different classes: NEGATIVE and negative; Positive and positive.",)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_whole_numbers_as_labels_are_text_in_order_of_number(ending: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": float([9, 10, 100][i % 3])} for i in range(30)]
    source = open_text(write(tmp_path / f"rows{ending}", rows))
    assert source.labels == ("9", "10", "100")
    assert not source.notes


@pytest.mark.parametrize("missing", ["", "  ", "nan", "NaN", None, float("nan")])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_missing_label_is_a_fault(missing: Any, ending: str, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": missing}, {"text": "b", "label": missing}]
    good = [] if isinstance(missing, float) else make_rows()
    with pytest.raises(DataError, match=r"2 bad rows: (line|row) [12]: no label; (line|row) [23]: no label"):
        open_text(write(tmp_path / f"rows{ending}", rows + good))


@pytest.mark.parametrize("missing", ["", " \t\n\u3000", None, float("nan")])
def test_few_empty_texts_are_skipped_and_noted(missing: Any, tmp_path: Path) -> None:
    rows = make_rows()
    rows[4]["text"] = missing
    source = open_text(write(tmp_path / "rows.jsonl", rows))
    assert len(items_of(source)) == 19
    assert source.notes == ("1 of 20 rows have no text and were skipped: line 5.",)


def test_many_empty_texts_are_refused_with_the_first_five(tmp_path: Path) -> None:
    rows = make_rows() + [{"text": "", "label": "bad"}] * 6
    with pytest.raises(DataError, match="6 of 26 rows have no text: line 22, line 23, line 24, line 25, line 26 and 1 more"):
        open_text(write(tmp_path / "rows.csv", rows))
    rows = make_rows()[:18] + [{"text": "", "label": "bad"}] * 2
    with pytest.raises(DataError, match="2 of 20 rows have no text"):
        open_text(write(tmp_path / "rows.csv", rows))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", "", "has no rows"),
        ("rows.csv", "text,label\n", "has no rows"),
        ("rows.jsonl", "\n\n", "has no rows"),
        ("rows.jsonl", "{\n", "1 bad rows: line 1: no JSON"),
        ("rows.csv", "text,label,split\na,b,test\n", "no train rows"),
        ("rows.csv", "text,label\na,b\nc,b\n", r"holds one class \(b\)"),
        ("rows.csv", "text,label\na,b\nc,d\ne,d\nf,d\n", r"too few texts in: b \(1\)"),
        ("rows.parquet", "PAR1 and no more", "cannot be read as Parquet"),
        ("rows.txt", "text", "is no table that fmx reads"),
    ],
)
def test_file_that_cannot_be_learnt_from_is_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        open_text(str(tmp_path / name))
    assert caught.value.hint
    assert "image" not in caught.value.message + caught.value.hint


def test_column_of_numbers_taken_for_labels_gives_a_short_message(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i} for i in range(1000)]
    with pytest.raises(DataError, match=r"too few texts in: 0 \(1\), .* and 980 more") as caught:
        open_text(write(tmp_path / "rows.csv", rows))
    assert len(caught.value.message) < 500


def test_data_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no data at") as caught:
        open_text(str(tmp_path / "none.csv"))
    assert ".jsonl" in caught.value.hint


def test_table_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.csv", make_rows())
    opened: list[Path] = []
    read = Path.read_bytes

    def read_noted(self: Path) -> bytes:
        opened.append(self)
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", read_noted)
    source = open_text(path)
    assert len({item.read() for item in items_of(source)}) == 20
    assert opened == [Path(path)]


def test_saved_dataset_is_opened_with_its_classes_in_order(tmp_path: Path) -> None:
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["positive", "negative", "unused"])})
    texts = [*ODD, *(f"text {i}" for i in range(12))]
    data = datasets.Dataset.from_dict({"sentence": texts, "label": [i % 2 for i in range(20)]}, features=features)
    data.save_to_disk(str(tmp_path / "saved"))
    source = open_text(f"hf:{tmp_path / 'saved'}")
    assert source.labels == ("positive", "negative")
    assert texts_of(source) == set(texts)
    assert {item.name for item in items_of(source)} == {f"row {i}" for i in range(1, 21)}
    assert source.notes == ("Texts are taken from the column sentence, labels from label.",)


def test_saved_splits_of_a_dataset_are_kept(tmp_path: Path) -> None:
    def table(count: int, end: str) -> datasets.Dataset:
        rows = make_rows(count)
        return datasets.Dataset.from_dict(
            {"text": [row["text"] + end for row in rows], "label": [row["label"] for row in rows], "tokens": [["a"] for _ in rows]}
        )

    data = datasets.DatasetDict({"train": table(6, ""), "val": table(2, "."), "test": table(2, "!"), "extra": table(1, "")})
    data.save_to_disk(str(tmp_path / "saved"))
    source = open_text(f"hf:{tmp_path / 'saved'}")
    assert sizes_of(source) == {"train": 12, "validation": 4, "test": 4}
    assert source.splits["test"][0].name == "test row 1"
    assert source.notes == ("Splits not used: extra.", "Columns not used: tokens.")
    with pytest.raises(DataError, match="the column tokens holds no text or numbers"):
        open_text(f"hf:{tmp_path / 'saved'}", columns=Columns("tokens"))
    with pytest.raises(DataError, match=r"\(train\) has no column 'txt'"):
        open_text(f"hf:{tmp_path / 'saved'}", columns=Columns("txt"))


def test_rows_of_a_dataset_without_a_label_are_faults(tmp_path: Path) -> None:
    """GLUE marks the labels of its test rows with -1, which as an index is the last class."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    train = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(8)], "label": [i % 2 for i in range(8)]}, features=features)
    test = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [-1, None]}, features=features)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="2 bad rows: test row 1: no label; test row 2: no label"):
        open_text(f"hf:{tmp_path / 'saved'}")


def test_texts_that_are_nearly_the_same_never_get_into_two_splits(tmp_path: Path) -> None:
    rows = [
        {"text": text, "label": label}
        for number in range(20)
        for label in ("bad", "good")
        for text in (f"{label} Word {number}", f"{label} word {number}!")
    ]
    source = open_text(write(tmp_path / "rows.csv", rows))
    places: dict[str, set[str]] = {item.read().decode().lower().rstrip("!"): set() for item in items_of(source)}
    for split, items in source.splits.items():
        for item in items:
            places[item.read().decode().lower().rstrip("!")].add(split)
    assert all(len(splits) == 1 for splits in places.values())


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("這個產品非常好我喜歡", "big5"),
        ("이 제품은 아주 좋아요 그런데 배송이 너무 늦게 와서 기분 나빴습니다 다시 사고 싶은 마음", "euc-kr"),
        ("この商品はとても良いです", "shift-jis"),
        ("für straße groß", "cp1252"),
    ],
)
def test_other_encodings_are_no_chinese(text: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\n" + "".join(f"{text} {number},{number % 2}\n" for number in range(40)).encode(encoding))
    with pytest.raises(DataError, match="not UTF-8 text"):
        open_text(str(path))


def test_quotation_mark_that_is_not_closed_is_named_in_tsv(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"Great movie\tpos\nso so\tneg\nbad film"\tneg\nok\tpos\n')
    with pytest.raises(DataError, match="line 2: a field goes on over tabs and lines"):
        open_text(str(path))


def test_columns_without_a_name_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,,\na,b,,\n")
    with pytest.raises(DataError, match="2 columns without a name"):
        open_text(str(path))
