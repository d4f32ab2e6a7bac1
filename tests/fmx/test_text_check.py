"""One fault of every kind is planted in a table of texts; `fmx data check` must find each, and show nothing of a text."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fmx.contract import Fingerprint
from fmx.data import open_source
from fmx.data.check import check_texts, find_leakage
from fmx.data.check.findings import KINDS_OF, TEXT_KINDS, Finding
from fmx.data.check.languages import UNTOLD, language_teller
from fmx.data.check.scripts import mean_shares, script_shares, shift_findings
from fmx.data.check.texts import read_text_facts, shows_something
from fmx.data.likeness import normalise
from fmx.data.rows import Rows
from fmx.data.source import Item, Source
from fmx.personal_data import count_personal_data
from fmx.task_names import TEXTS

Row = tuple[str, str, str]
"""Text, label, split"""

NOUNS = ("river", "garden", "window", "teacher", "bottle", "mountain", "letter", "kitchen", "pencil", "station")
HAN = ("天气很好", "我们去公园", "这本书有趣", "他在学校", "今天下雨", "猫在睡觉", "茶很香", "火车晚点", "门开着", "花开了")


def clean_rows() -> list[Row]:
    """Give different texts in English and Chinese, in the same proportion in every split."""
    rows = []
    for split, count in (("train", 30), ("validation", 20), ("test", 20)):
        for label in ("negative", "positive"):
            for i in range(count):
                where = f"{split} {label} {NOUNS[i % 10]} {NOUNS[i // 10]}"
                rows.append((f"the {where}" if i % 2 else f"{HAN[i % 10]}，{HAN[i // 10]} {where}", label, split))
    return rows


PLANTED: dict[str, tuple[list[Row], str]] = {
    "copies": ([("said twice", "positive", "train")] * 2, "line 142 (train, positive) and line 143 (train, positive)"),
    "copies-across-splits": (
        [("leaked 🎉", "positive", "train"), ("leaked 🎉", "positive", "test")],
        "line 144 (train, positive) and line 145 (test, positive)",
    ),
    "copies-across-labels": (
        [("两个标签", "positive", "train"), ("两个标签", "negative", "train")],
        "line 146 (train, positive) and line 147 (train, negative)",
    ),
    "near-copies-across-splits": (
        [("Ｈｅｌｌｏ  World！", "negative", "train"), ("hello wor\u200bld", "negative", "validation")],
        "line 148 (train, negative) and line 149 (validation, negative)",
    ),
    "near-copies-across-labels": (
        [("真的吗？", "negative", "train"), ("真的吗", "positive", "train")],
        "line 150 (train, negative) and line 151 (train, positive)",
    ),
    "invisible": ([("\u200b\u2060\u0001", "positive", "train")], "line 152 (train, positive): 3 characters"),
    "unreadable": ([("many " * 20_001, "positive", "train")], "line 153 (train, positive): 100,005 characters, more than 100,000"),
    "email": ([("write to anna.schmidt@example.org", "positive", "train")], "line 154 (train, positive)"),
    "phone": ([("请打１３８１２３４５６７８", "positive", "train")], "line 155 (train, positive)"),
    "identity-card": ([("身份证11010519491231002X", "positive", "train")], "line 156 (train, positive)"),
    "payment-card": ([("card 4111 1111 1111 1111", "positive", "train")], "line 157 (train, positive)"),
    "long": ([("word " * 40, "positive", "train")], "line 158 (train, positive): 40 tokens"),
    "imbalance": ([("rare one", "rare", "train"), ("rare two", "rare", "validation")], "rare (1 of 42)"),
    "missing-class": ([], "rare (test)"),
}
"""Kind -> rows, and what must be named; the lines are those behind the clean rows"""
SECRETS = ("anna", "１３８", "11010519491231", "4111 1111", "真的吗", "leaked", "said twice", "两个标签", "Ｈｅｌｌｏ")


def write(path: Path, rows: list[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("text", "label", "split"), *rows])
    return path


def write_tokenizer(path: Path) -> Path:
    """A token a word."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path))
    return path


def run_check(source: object, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fmx", "data", "check", str(source), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run_text_check(source: object, *options: str) -> subprocess.CompletedProcess[str]:
    return run_check(source, "--task", TEXTS, *options)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = clean_rows()
    assert len(rows) == 140
    return write(tmp_path_factory.mktemp("planted") / "rows.csv", [*rows, *(row for added, _ in PLANTED.values() for row in added)])


@pytest.fixture(scope="module")
def report(planted: Path) -> dict[str, Any]:
    done = run_text_check(planted, "--json", "--tokenizer", str(write_tokenizer(planted.parent / "tokenizer.json")), "--max-length", "32")
    assert done.returncode == 3, done.stderr
    assert "training would be misled" in done.stderr
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr]
    content: dict[str, Any] = json.loads(done.stdout)
    return content


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_fault_is_found(kind: str, report: dict[str, Any]) -> None:
    found = {finding["kind"]: finding for finding in report["findings"]}[kind]
    assert found["examples"] == [PLANTED[kind][1]]
    assert found["count"] == 1
    assert found["severity"] == ("note" if kind == "long" else TEXT_KINDS[kind].severity)


def test_nothing_else_is_found(report: dict[str, Any]) -> None:
    assert {finding["kind"] for finding in report["findings"]} == set(PLANTED)
    assert set(PLANTED) | {"unknown-class", "many-unreadable", "script-shift", "language-shift", "scores-apart"} == set(TEXT_KINDS)


def test_report_counts_rows_lengths_and_scripts(report: dict[str, Any]) -> None:
    assert report["rows"] == {"train": 76, "validation": 42, "test": 41}
    assert report["classes"][2] == {"label": "rare", "train": 1, "validation": 1, "test": 0}
    assert report["lengths"] | {"longer_share": 0} == {
        "unit": "tokens",
        "least": 1,
        "median": 5,
        "p95": 5,
        "most": 40,
        "max_length": 32,
        "longer_share": 0,
    }
    assert report["lengths"]["longer_share"] == pytest.approx(1 / 157)
    assert all(sum(shares.values()) == pytest.approx(1) for shares in report["scripts"].values())


def test_report_for_a_person_names_rows_and_never_texts(planted: Path) -> None:
    done = run_text_check(planted)
    assert done.returncode == 3
    assert "error: 1 text in two splits, byte for byte [copies-across-splits]" in done.stdout
    assert "line 144 (train, positive) and line 145 (test, positive)" in done.stdout
    assert "characters" in done.stdout
    assert "[long]" not in done.stdout  # characters are not tokens
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr]


def test_clean_table_gives_nothing_and_the_next_command(tmp_path: Path) -> None:
    path = write(tmp_path / "clean.csv", clean_rows())
    done = run_text_check(path, "--text-column", "text", "--label-column", "label")
    assert done.returncode == 0, done.stderr
    assert "Nothing was found." in done.stdout
    assert "Han" in done.stdout
    assert f"fmx train --task text-classification --data {path} --text-column text --label-column label" in done.stdout


def test_notes_of_the_source_are_carried_along(tmp_path: Path) -> None:
    rows = [*clean_rows(), ("  ", "positive", "train"), ("one more", "Positive ", "train")]
    checked = check_texts(open_source(str(write(tmp_path / "rows.csv", rows)), task=TEXTS))
    notes = " ".join(checked.notes)
    assert "1 of 142 rows have no text and were skipped: line 142." in notes
    assert "White space around the label was removed in 1 rows." in notes
    assert "Labels that differ only by case" in notes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--text-column", "text", "--max-length", "64"], "--text-column, --max-length would do nothing"),
        (["--task", "text-clasification"], "'text-clasification' is not one of"),
        (["--task", TEXTS, "--max-length", "64"], "Add --tokenizer"),
        (["--task", TEXTS, "--tokenizer", "nowhere.json"], "no file nowhere.json"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], says: str, tmp_path: Path) -> None:
    done = run_check(write(tmp_path / "rows.csv", clean_rows()), *options)
    assert done.returncode == 2
    assert says in done.stderr


def test_no_near_leaves_normalised_copies_out(planted: Path) -> None:
    checked = check_texts(open_source(str(planted), task=TEXTS), near=False)
    assert not any(found.kind.startswith("near") for found in checked.findings)


def test_many_long_texts_are_a_warning(tmp_path: Path) -> None:
    rows = [*clean_rows(), *((f"word {i} " * 30, "positive", "train") for i in range(20))]
    source = open_source(str(write(tmp_path / "rows.csv", rows)), task=TEXTS)
    (found,) = check_texts(source, tokenizer=write_tokenizer(tmp_path / "t.json"), max_length=32).findings
    assert (found.kind, found.severity, found.count) == ("long", "warning", 20)


def made(texts: list[bytes], labels: tuple[str, ...] = ("a", "b")) -> Source:
    items = [Item(f"row {i}", i % 2, functools.partial(bytes, text)) for i, text in enumerate(texts)]
    return Source("made", labels, {"train": items})


def test_more_texts_without_use_than_training_takes_are_an_error() -> None:
    checked = check_texts(made([b"\xff\xfe", " \u3000".encode(), *(f"text {i}".encode() for i in range(10))]))
    assert [(found.kind, found.severity, found.count) for found in checked.findings] == [
        ("many-unreadable", "error", 2),
        ("unreadable", "warning", 1),
        ("invisible", "warning", 1),
    ]
    assert checked.findings[1].examples == ("row 0 (train, a): no UTF-8 at byte 0",)


def test_label_that_the_source_does_not_know_is_an_error() -> None:
    (found,) = check_texts(made([b"one", b"two", b"three"], ("a",))).findings
    assert (found.kind, found.severity) == ("unknown-class", "error")


def test_source_without_a_usable_text_is_checked_all_the_same() -> None:
    checked = check_texts(made([b" "]))
    assert checked.as_json()["lengths"] is None
    assert checked.scripts == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße!", "STRASSE"),
        ("ＡＢＣ　１２３", "abc 123"),
        ("  a\t\nb ", "a b"),
        ("真的吗？！", "真的吗"),
        ("well…", "well ..."),
        ("co\u00adop\u200b", "coop"),
        ("\ufeffe\u0301te\u0301.", "ÉTÉ"),
        ("❤\ufe0f you", "❤ you"),
        ("ﾊﾝｶｸ", "ハンカク"),
        ("ν\u0345", "νι"),
    ],
)
def test_texts_that_read_the_same_are_the_same_normalised(one: str, other: str) -> None:
    assert normalise(one) == normalise(other) == normalise(normalise(one))


@pytest.mark.parametrize(("one", "other"), [("!!!", "???"), ("good 👍", "good 👎"), ("don't", "dont"), ("不好", "好"), ("résumé", "resume")])
def test_texts_that_read_differently_stay_different_normalised(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def test_copies_are_found_where_each_pair_shares_bytes_or_a_split_with_the_first() -> None:
    """The first differs from none in both; the second and the third do."""
    rows = {"train": [("Hello", "a"), ("hello", "a"), ("x", "b")], "test": [("Hello", "a"), ("y", "b")]}
    splits = {
        split: [Item(f"{split} {text}", "ab".index(label), functools.partial(bytes, text.encode())) for text, label in found]
        for split, found in rows.items()
    }
    found = {one.kind: one.examples for one in check_texts(Source("made", ("a", "b"), splits)).findings}
    assert found["near-copies-across-splits"] == ("train hello (train, a) and test Hello (test, a)",)
    assert "copies-across-splits" in found


@pytest.mark.parametrize("text", ["", " \t\u3000", "\u200b\u200d\ufeff", "\0\x1b", "\u3164", "\ufe0f", "\U000e0041"])
def test_text_that_shows_nothing_is_known(text: str) -> None:
    assert not shows_something(text)
    assert read_text_facts(Item("x", 0, text.encode), len).marks[0][0] == "invisible"


@pytest.mark.parametrize("text", ["a", "。", "👨\u200d👩", "\u200b7"])
def test_text_that_shows_something_is_known(text: str) -> None:
    assert shows_something(text)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        *[("Grüße, ＡＢ", "Latin"), ("天气々", "Han"), ("ラーメン です ｱ", "Kana"), ("한국어", "Hangul"), ("привет", "Cyrillic"), ("سلام", "Arabic")],
        *[("שלום", "Hebrew"), ("हम", "Devanagari"), ("กขค", "Thai"), ("Ωμέγα", "Greek"), ("ქართული", "other"), ("123 🎉", "other")],
    ],
)
def test_script_of_a_text_is_told(text: str, script: str) -> None:
    assert script_shares(text) == {script: 1.0}


def test_split_in_another_script_is_a_warning_and_small_ones_are_not_compared() -> None:
    latin, han = {"Latin": 1.0}, {"Han": 1.0}
    (found,) = shift_findings("script-shift", {"train": [latin] * 40, "validation": [latin] * 30 + [han] * 10, "test": [latin] * 36 + [han] * 4})
    assert (found.kind, found.severity, found.count) == ("script-shift", "warning", 1)
    assert found.examples == ("validation (Latin 75%, in train 100%)",)
    assert shift_findings("script-shift", {"train": [latin] * 40, "test": [han] * 20}) == ()
    assert mean_shares([latin, {"Latin": 0.5, "Han": 0.5}]) == {"Latin": 0.75, "Han": 0.25}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        *[("where is my order please", "en"), ("wo ist meine Bestellung", "de"), ("où est ma commande", "fr"), ("我的订单在哪里", "zh")],
        *[("注文はどこですか", "ja"), ("ok", UNTOLD), ("12345 6789", UNTOLD), ("好的", UNTOLD), ("hello Anna", UNTOLD)],
    ],
)
def test_language_of_a_text_is_told_where_it_can_be(text: str, language: str) -> None:
    tell = language_teller()
    assert tell is not None
    assert tell(text, script_shares(text)) == language


def test_split_in_another_language_of_the_same_script_is_a_warning(tmp_path: Path) -> None:
    english = [f"the parcel number {n} was late again and nobody answered" for n in range(90)]
    german = [f"das Paket Nummer {n} war wieder zu spät und niemand meldete sich" for n in range(40)]
    rows = [(text, "ab"[n % 2], "train" if n < 50 else "validation") for n, text in enumerate(english)]
    rows += [(text, "ab"[n % 2], "test") for n, text in enumerate(german)]
    checked = check_texts(open_source(str(write(tmp_path / "rows.csv", rows)), task=TEXTS))
    assert checked.languages["test"]["de"] > 0.9
    assert checked.languages["train"]["en"] > 0.9
    (found,) = [one for one in checked.findings if one.kind == "language-shift"]
    assert found.examples[0].startswith("test (")


def test_check_without_the_library_of_languages_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmx.data.check.text_check.language_teller", lambda: None)
    rows = [(f"the parcel number {n} was late", "ab"[n % 2], "") for n in range(40)]
    checked = check_texts(open_source(str(write(tmp_path / "rows.csv", rows)), task=TEXTS))
    assert checked.languages == {}
    assert any("py3langid" in note for note in checked.notes)


def test_personal_data_are_counted_by_kind() -> None:
    text = "anna@example.org, zhang＠example.com, 13812345678, 4111 1111 1111 1111, 11010519491231002X and order 4111111111111112"
    assert count_personal_data(text) == {"email": 2, "phone": 1, "card": 1, "identity card": 1}
    assert not count_personal_data("2026-11-26 12:34:56, 20,000,000 bytes")


def text_rows(texts: list[tuple[str, int]], *, with_items: bool = True) -> Rows:
    data = [text.encode() for text, _ in texts]
    return Rows(
        values=np.zeros((len(texts), 8), np.int32),
        labels=np.array([label for _, label in texts]),
        names=tuple(f"line {i}" for i in range(len(texts))),
        skipped=(),
        fingerprint=Fingerprint(rows=len(texts), sha256="0" * 64),
        digests=tuple(hashlib.sha256(one).digest() for one in data),
        items=tuple(Item(f"line {i}", texts[i][1], functools.partial(bytes, one)) for i, one in enumerate(data)) if with_items else (),
    )


@pytest.mark.parametrize("with_items", [True, False])
def test_leakage_of_texts_is_an_error_and_normalised_copies_are_warnings(with_items: bool) -> None:
    train = [("same", 0), ("Near.", 0), ("either", 0), ("either", 1), ("maybe", 0), ("Maybe?", 1)]
    splits = {"train": text_rows(train, with_items=with_items), "test": text_rows([("same", 0), ("near", 0)], with_items=with_items)}
    found = [(one.kind, one.severity, one.count) for one in find_leakage(splits, "text")]
    near = [("near-copies-across-splits", "warning", 1), ("near-copies-across-labels", "warning", 1)]
    assert found == [("copies-across-splits", "error", 1), ("copies-across-labels", "error", 1), *(near if with_items else [])]
    assert find_leakage(splits, "text")[0].message == "1 text in two splits, byte for byte"


def test_one_of_a_kind_is_said_in_the_singular() -> None:
    for kind in KINDS_OF["text"]:
        one, two = (Finding(kind, "note", count, ("x",), "text").message for count in (1, 2))
        assert one.split()[1] + ("es" if one.split()[1] == "class" else "s") == two.split()[1]
        assert one.split()[2:] == two.split()[2:]
