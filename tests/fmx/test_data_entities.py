"""Reading texts with their entities: CoNLL in its schemes, rows of spans or of tags, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from fmx.data import Columns, open_source
from fmx.data.entities import joined_tokens
from fmx.data.source import Item, Source
from fmx.entities import Span
from fmx.errors import DataError
from tests.texts import make_entities, write_entities

TASK = "token-classification"
BIO = "Ada B-PER\nLovelace I-PER\nlives O\nin O\nNew B-LOC\nYork I-LOC\n. O\n"
BIOES = "Ada B-PER\nLovelace E-PER\nlives O\nin O\nNew B-LOC\nYork E-LOC\n. O\n"
IOB1 = "Ada I-PER\nLovelace I-PER\nlives O\nin O\nNew I-LOC\nYork I-LOC\n. O\n"
WIDE = (
    "-DOCSTART- -X- -X- O\n\n# id 7\nAda NNP B-NP B-PER\nLovelace NNP I-NP I-PER\nlives VBZ O O\nin IN O O\n"
    "New\tNNP\tO\tB-LOC\nYork NNP O I-LOC\n. . O O\n"
)
EXPECTED = ("Ada Lovelace lives in New York .", (Span("PER", 0, 12), Span("LOC", 22, 30)))


def opened(path: Path, **told: Any) -> Source:
    return open_source(str(path), task=TASK, columns=Columns(**told))


def items_of(source: Source) -> list[Item]:
    return [item for items in source.splits.values() for item in items]


def texts_of(source: Source) -> list[tuple[str, tuple[Span, ...]]]:
    return sorted((item.read().decode(), item.spans) for item in items_of(source))


@pytest.mark.parametrize("sentence", [BIO, BIOES, IOB1, WIDE, BIO.replace(" ", "\t"), BIO.replace("\n", "\r\n"), BIO.replace("\n", "\r")])
def test_conll_gives_text_and_spans(tmp_path: Path, sentence: str) -> None:
    path, end = tmp_path / "news.conll", "\r" if "\n" not in sentence else "\n"
    path.write_bytes("".join(f"{sentence}{n} O{end * 2}" for n in range(5)).encode())
    source = opened(path)
    assert source.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert texts_of(source) == [(f"{EXPECTED[0]} {n}", EXPECTED[1]) for n in range(5)]


def test_chinese_characters_are_joined_without_spaces() -> None:
    assert joined_tokens(["王", "芳", "在", "Google", "工", "作", "，", "today", "ok"])[0] == "王芳在Google工作，today ok"
    text, places = joined_tokens(["在", "New", "York"])
    assert [text[start:end] for start, end in places] == ["在", "New", "York"]


@pytest.mark.parametrize(
    "entity",
    [
        {"start": 13, "end": 18, "label": "LOC"},
        {"start": 13, "end": 18, "type": "LOC", "score": 1},
        {"start_offset": 13, "end_offset": 18, "label": "LOC"},
        [13, 18, "LOC"],
        ["LOC", 13, 18],
    ],
)
@pytest.mark.parametrize("column", ["entities", "spans", "label"])
def test_rows_of_spans_are_read_in_their_common_forms(tmp_path: Path, entity: object, column: str) -> None:
    rows: list[dict[str, object]] = [{"text": f"Ada lives in Paris {n}", column: [entity] if n else []} for n in range(6)]
    source = opened(write_entities(tmp_path / "rows.jsonl", rows))
    assert [spans for _, spans in texts_of(source)] == [(), *[(Span("LOC", 13, 18),)] * 5]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_of_tokens_and_tags_are_read(tmp_path: Path, ending: str) -> None:
    rows: list[dict[str, Any]] = [{"tokens": ["in", "New", "York", str(n)], "ner_tags": ["O", "B-LOC", "I-LOC", "O"]} for n in range(6)]
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_entities(path, rows)
    assert texts_of(opened(path))[0] == ("in New York 0", (Span("LOC", 3, 11),))


def test_saved_data_set_gives_its_classes_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["O", "B-LOC", "I-LOC"])
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": datasets.Sequence(names)})
    rows = {"tokens": [["in", "New", "York", str(n)] for n in range(6)], "ner_tags": [[0, 1, 2, 0]] * 6}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    source = open_source(f"hf:{tmp_path / 'set'}", task=TASK)
    assert texts_of(source)[0] == ("in New York 0", (Span("LOC", 3, 11),))


def test_folder_gives_its_splits_and_a_kind_of_the_test_rows_alone_is_an_error(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name.replace('dev', 'validation')}.conll").write_text(BIO)
    source = opened(tmp_path)
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 1, "validation": 1, "test": 1}
    (tmp_path / "test.conll").write_text("IBM B-ORG\n")
    with pytest.raises(DataError, match="classes that the training rows do not have: ORG"):
        opened(tmp_path)


def test_splits_are_dealt_by_the_seed_and_groups_stay_whole(tmp_path: Path) -> None:
    rows = [{**row, "group": f"g{number // 3}"} for number, row in enumerate(make_entities(60))]
    path = write_entities(tmp_path / "rows.jsonl", rows)
    source = opened(path)
    groups = {split: {item.group for item in items} for split, items in source.splits.items()}
    assert not groups["train"] & groups["test"]
    assert 8 <= len(source.splits["test"]) <= 16
    assert [item.name for item in opened(path).splits["test"]] == [item.name for item in source.splits["test"]]


def test_columns_are_taken_as_told(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"said": f"Ada in Paris {n}", "found": [[7, 12, "LOC"]], "text": "no"} for n in range(5)]
    path = write_entities(tmp_path / "rows.jsonl", rows)
    assert texts_of(opened(path, text="said", label="found"))[0] == ("Ada in Paris 0", (Span("LOC", 7, 12),))
    with pytest.raises(DataError, match="no column 'sad'") as caught:
        opened(path, text="sad")
    assert "said" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "Ada", "entities": [{"start": 0, "end": 9, "label": "PER"}]}, "not in the text of 3 characters"),
        ({"text": "Ada", "entities": [{"start": 2, "end": 1, "label": "PER"}]}, "not in the text"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 1.5, "label": "PER"}]}, "no whole numbers"),
        ({"text": "Ada", "entities": [{"start": 0, "end": True, "label": "PER"}]}, "no whole numbers"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 3, "label": " "}]}, "no label"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 3}]}, "no label"),
        ({"text": "A  a", "entities": [{"start": 1, "end": 3, "label": "PER"}]}, "white space"),
        ({"text": "Ada", "entities": ["PER"]}, "no object"),
        ({"text": "Ada", "entities": "PER"}, "no list"),
        ({"text": 3, "entities": []}, "no string"),
        ({"text": "\ud800", "entities": []}, "lone surrogate"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 3, "label": "\ud800"}]}, "cannot be written on a line"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 3, "label": "A\u2028B"}]}, "cannot be written on a line"),
    ],
)
def test_bad_row_is_named_with_its_line(tmp_path: Path, row: dict[str, object], said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [*make_entities(5), row]))
    with pytest.raises(DataError, match=f"line 6: .*{said}"):
        opened(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Ada B-PER\nParis\n", "line 2: one column"),
        ("Ada B-PER\nParis LOC\n", "line 2: 'LOC' is no tag"),
        ("Ada O\n\nParis O\n\nx O\n", "hold no entity"),
        ("", "has no rows"),
    ],
)
def test_bad_conll_is_told(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "rows.conll"
    path.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        opened(path)
    assert caught.value.hint


def test_tokens_and_tags_must_be_as_many(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"tokens": ["a", "b"], "tags": ["O"]}]
    with pytest.raises(DataError, match="not as many tags as tokens"):
        opened(write_entities(tmp_path / "rows.jsonl", rows))


def test_overlapping_entities_are_told(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"New York Times {n}", "entities": [[0, 8, "LOC"], [0, 14, "ORG"]]} for n in range(5)]
    assert any("5 entities overlap" in note for note in opened(write_entities(tmp_path / "rows.jsonl", rows)).notes)


def test_table_without_entities_is_refused_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="no table that fmx reads"):
        opened(tmp_path / "rows.csv")
    rows: list[dict[str, object]] = [{"text": "a", "topic": "b"}]
    with pytest.raises(DataError, match="no text with its entities") as caught:
        opened(write_entities(tmp_path / "rows.jsonl", rows))
    assert '"entities"' in caught.value.hint


def test_spans_go_before_tokens_that_stand_beside_them(tmp_path: Path) -> None:
    """An annotation tool writes both, its tokens as objects."""
    rows: list[dict[str, object]] = [
        {"text": f"Ada in Paris {n}", "tokens": [{"text": "Ada", "id": 0}], "spans": [{"start": 7, "end": 12, "label": "LOC"}]} for n in range(5)
    ]
    assert texts_of(opened(write_entities(tmp_path / "rows.jsonl", rows)))[0] == ("Ada in Paris 0", (Span("LOC", 7, 12),))


def test_lists_by_name_are_read_as_a_data_set_gives_them(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"Ada in Paris {n}", "entities": {"start": [7], "end": [12], "label": ["LOC"]}} for n in range(5)]
    assert texts_of(opened(write_entities(tmp_path / "rows.jsonl", rows)))[0] == ("Ada in Paris 0", (Span("LOC", 7, 12),))


def test_split_without_an_entity_is_refused(tmp_path: Path) -> None:
    for name, tags in (("train", "Ada B-PER"), ("validation", "Ada B-PER"), ("test", "Ada O")):
        (tmp_path / f"{name}.conll").write_text(f"{tags}\n{name} O\n")
    with pytest.raises(DataError, match=r"test rows of .* hold no entity"):
        opened(tmp_path)
