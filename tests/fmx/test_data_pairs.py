"""Tables of pairs: which columns are taken, what is refused, and that queries stay whole."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from fmx.data import GUESSED, Columns, Source, columns_with, open_source
from fmx.data.check import check_texts
from fmx.errors import DataError, UsageError
from fmx.pairs import joined, shown, texts_of

TASK = "text-pair"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(first: str = "question", second: str = "answer", label: str = "label", **more: Any) -> list[dict[str, Any]]:
    return [{first: f"question {i}", second: f"answer {i} {name}", label: name, **more} for i in range(12) for name in ("0", "1")]


def pairs_in(source: Source) -> set[tuple[str, ...]]:
    return {tuple(texts_of(item.read())) for items in source.splits.values() for item in items}


def test_bytes_of_a_pair_are_taken_apart_again() -> None:
    for texts in (["one", "two"], ["", "ÿ"], ["包裹\0", "\U0001f600"]):
        assert texts_of(joined([text.encode() for text in texts])) == texts
    assert shown(joined([b"one", b"two"])) == "one\ntwo"


@pytest.mark.parametrize(
    ("columns", "told", "expected"),
    [
        (("question", "answer", "label"), Columns(), ("question", "answer")),
        (("sentence2", "sentence1", "label"), Columns(), ("sentence1", "sentence2")),
        (("Premise", "hypothesis", "label"), Columns(), ("Premise", "hypothesis")),
        (("left", "right", "clicked"), Columns(), ("left", "right")),
        (("answer", "question", "headline", "label"), Columns(text="headline", pair="question"), ("headline", "question")),
        (("headline", "body", "label"), Columns(text="body"), ("body", "headline")),
        (("headline", "body", "label"), Columns(pair="headline"), ("body", "headline")),
        (("query", "title", "passage", "label"), Columns(pair="title"), ("query", "title")),
        (("question", "answer", "verdict"), Columns(), ("question", "answer")),
        (("id", "left", "right", "label"), Columns(), ("left", "right")),
        (("doc_id", "history", "item", "category", "clicked"), Columns(), ("history", "item")),
    ],
)
def test_columns_are_guessed_or_told(columns: tuple[str, ...], told: Columns, expected: tuple[str, str], tmp_path: Path) -> None:
    rows = [{column: f"{column} {i} {i % 2}" for column in columns[:-1]} | {columns[-1]: i % 2} for i in range(20)]
    source = open_source(write(tmp_path / "rows.jsonl", rows), task=TASK, columns=told)
    assert pairs_in(source) == {(row[expected[0]], row[expected[1]]) for row in rows}
    assert source.labels == ("0", "1")


@pytest.mark.parametrize(
    ("columns", "told", "said"),
    [
        (("text", "label"), Columns(), "known to hold two texts"),
        (("a", "b", "c", "label"), Columns(), "known to hold two texts; its columns: a, b, c, label"),
        (("question", "answer"), Columns(), "known to hold a label"),
        (("id", "question", "label"), Columns(), "known to hold two texts"),
        (("question", "answer", "label"), Columns(pair="question", text="question"), "cannot be both texts of a pair"),
        (("question", "answer", "label"), Columns(pair="label"), "label"),
        (("question", "answer", "label"), Columns(pair="anser"), "no column 'anser'"),
        (("question", "answer", "label"), Columns(query="qid"), "no column 'qid'"),
    ],
)
def test_columns_that_cannot_be_chosen_are_refused(columns: tuple[str, ...], told: Columns, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        open_source(write(tmp_path / "rows.jsonl", [dict.fromkeys(columns, "x")] * 4), task=TASK, columns=told)
    assert "--pair-column" in caught.value.hint


def test_candidates_of_a_query_stay_in_one_split(tmp_path: Path) -> None:
    rows = [row | {"qid": f"q{i // 6}"} for i, row in enumerate(rows_of() + rows_of(second="answer", question="more"))]
    source = open_source(write(tmp_path / "rows.jsonl", rows), task=TASK)
    found: dict[str | None, set[str]] = defaultdict(set)
    for split, items in source.splits.items():
        for item in items:
            found[item.query].add(split)
    assert len(found) == 8
    assert all(len(splits) == 1 for splits in found.values())
    assert any("same qid are candidates" in note for note in source.notes)


def test_text_may_be_the_group(tmp_path: Path) -> None:
    rows = [row | {"question_id": str(i)} for i, row in enumerate(rows_of())]
    source = open_source(write(tmp_path / "rows.jsonl", rows), task=TASK, group_by="question")
    assert pairs_in(source) == {(row["question"], row["answer"]) for row in rows}
    assert {item.group for items in source.splits.values() for item in items} == {row["question"] for row in rows}


def test_queries_stay_whole_beside_groups(tmp_path: Path) -> None:
    rows = [row | {"qid": f"q{i // 6}", "group": f"g{i % 12}"} for i, row in enumerate(rows_of() * 4)]
    rows = [row | {"answer": f"{row['answer']} {i}", "group": f"g{i // 12}"} for i, row in enumerate(rows)]
    found: dict[str | None, set[str]] = defaultdict(set)
    source = open_source(write(tmp_path / "rows.jsonl", rows), task=TASK)
    for split, items in source.splits.items():
        for item in items:
            found[item.query].add(split)
            found[item.group].add(split)
    assert all(len(splits) == 1 for splits in found.values())


def test_query_that_the_data_tear_is_told(tmp_path: Path) -> None:
    rows = [row | {"qid": "same", "split": split, "answer": f"{row['answer']} {split}"} for split in ("train", "val", "test") for row in rows_of()]
    source = open_source(write(tmp_path / "rows.jsonl", rows), task=TASK)
    assert "1 of 1 queries are in more than one split; each part is ranked by itself." in source.notes


def test_columns_are_told_one_by_one_or_as_trained() -> None:
    known = {"data": "x.csv", "text_column": "title", "pair_column": "reply", "label_column": "clicked", "query_column": "qid"}
    assert columns_with(known, "x.csv", Columns(label="bought"), TASK) == Columns("title", "bought", "reply", "qid")
    assert columns_with(known, "x.csv", GUESSED, TASK) == Columns("title", "clicked", "reply", "qid")
    assert columns_with(known, "y.csv", Columns(query="other"), TASK) == Columns(query="other")
    for told, data, task, said in (
        (Columns(query="other"), "x.csv", TASK, "was split without --query-column other"),
        (Columns(query="other"), "y.csv", "text-classification", "--query-column does nothing"),
        (Columns(pair="other"), "y.csv", "text-classification", "--pair-column does nothing"),
        (Columns(text="other"), "digits", "image-classification", "--text-column does nothing"),
    ):
        with pytest.raises(UsageError, match=said):
            columns_with(known, data, told, task)


def test_text_itself_may_name_the_query(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "rows.jsonl", rows_of()), task=TASK, columns=Columns(query="question"))
    assert {item.query for items in source.splits.values() for item in items} == {f"question {i}" for i in range(12)}


def test_row_without_its_second_text_is_skipped_and_told(tmp_path: Path) -> None:
    rows = [*(rows_of() * 2), {"question": "why?", "answer": " ", "label": "1"}]
    for number, row in enumerate(rows):
        row = row | {"answer": f"{row['answer']}{number}" if row["answer"].strip() else row["answer"]}
        rows[number] = row
    source = open_source(write(tmp_path / "rows.jsonl", rows), task=TASK)
    assert any("1 of 49 rows do not have two texts" in note for note in source.notes)
    assert len(pairs_in(source)) == 48


def test_check_speaks_of_pairs(tmp_path: Path) -> None:
    rows = [row | {"split": split} for split in ("train", "test", "validation") for row in rows_of(first="text", second="text_pair")]
    rows[0] = rows[0] | {"text": "write to jane.doe@example.com"}
    found = {one.kind: one.message for one in check_texts(open_source(write(tmp_path / "rows.jsonl", rows), task=TASK), noun="pair").findings}
    assert found["copies-across-splits"] == "24 pairs in two splits, byte for byte"
    assert found["email"] == "1 pair with an e-mail address"
