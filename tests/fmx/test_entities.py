"""Entities: units of a text, tags and spans, and the measures, which are those of seqeval."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from fmx.contract import TextInput
from fmx.data.source import Item
from fmx.entities import (
    IGNORED,
    Span,
    Unit,
    entity_counts,
    entity_measures,
    find_entities,
    is_exact,
    spans_of_tags,
    summary_of,
    tag_units,
    tags_of,
)
from fmx.tasks import Piece, TokenClassification
from fmx.tasks.token_classification import SLACK
from fmx.texts import open_tokenizer

TAGS = tags_of(["PER", "LOC"])
ODD = [
    "Ada Lovelace was born in London.",
    "王芳今天在北京。",
    "王芳在Google上班 today",
    "cafe\u0301 déjà vu, naïve",
    "👩\u200d👩\u200d👧 in Paris 🇫🇷",
    "ＡＢＣ１２３ full-width",
    "مرحبا بالعالم Ada",
    "zero\u200bwidth \ufeffmark",
    "a\0b \t tabs\r\nand lines",
    "don't U.S.-based COVID-19 x_y",
    "[CLS] Ada [SEP] [PAD]",
    "\ufeffAda at the beginning",
    "ß ﬁ Ǆ İstanbul",
    "𝔸𝕕𝕒 𠮷野家",
]


@pytest.fixture(scope="module")
def task(tiny_encoder: Path) -> TokenClassification:
    """The task over the tiny encoder's tokenizer, in windows of 24 tokens."""
    tokenizer = open_tokenizer(tiny_encoder / "tokenizer.json")
    pad, unknown = tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("[UNK]")
    size = tokenizer.get_vocab_size()
    assert pad is not None
    spec = TextInput(max_length=24, pad_id=pad, unknown_id=unknown, special_tokens=2, vocabulary=size, tokenizer_sha256="0" * 64)
    return TokenClassification(TAGS, spec, tokenizer)


def test_tags_of_kinds_are_sorted_and_begin_with_none() -> None:
    assert TAGS == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.mark.parametrize("text", ODD)
def test_units_lie_in_the_text_in_order(task: TokenClassification, text: str) -> None:
    units = task.units(text.encode())
    assert units
    for before, after in pairwise([Unit(0, 0, 0), *units]):
        assert before.end <= after.start < after.end <= len(text)
        assert not text[after.start].isspace()
        assert not text[after.end - 1].isspace()
        assert before.token < after.token < task.row_shape[0]


@settings(max_examples=300, deadline=None)
@given(text=st.text(min_size=1, max_size=60))
def test_units_of_any_text_lie_in_it(task: TokenClassification, text: str) -> None:
    if not text.strip().strip("\ufeff"):
        return
    ends = [0]
    for unit in task.units(text.encode()):
        assert ends[-1] <= unit.start < unit.end <= len(text)
        ends.append(unit.end)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("great parcels", ["great", "parcels"]),
        ("包裹太慢", ["包", "裹", "太", "慢"]),
        ("cafe\u0301 x", ["cafe\u0301", "x"]),
        ("Mile\u0301nas Bo\u0308ll", ["Mile\u0301nas", "Bo\u0308ll"]),
        ("so\u00adft zero\u200bwidth", ["so\u00adft", "zero", "width"]),
        ("don't", ["don", "'", "t"]),
        ("在Google上", ["在", "Google", "上"]),
    ],
)
def test_units_are_words_or_characters(task: TokenClassification, text: str, words: list[str]) -> None:
    assert [text[unit.start : unit.end] for unit in task.units(text.encode())] == words


@pytest.mark.parametrize("text", ODD)
def test_every_exact_span_is_found_again(task: TokenClassification, text: str) -> None:
    units = task.units(text.encode())
    for first in range(len(units)):
        for last in range(first, min(first + 3, len(units))):
            span = Span("PER", units[first].start, units[last].end)
            said = np.eye(len(TAGS))[tag_units(units, [span], TAGS)]
            (found,) = find_entities([(unit.start, unit.end) for unit in units], said, TAGS)
            assert (found.label, found.start, found.end, found.score) == (*span, 1.0)
            assert is_exact(units, span)


def test_span_inside_a_word_takes_the_whole_word(task: TokenClassification) -> None:
    units = task.units(b"great parcels today")
    inside = Span("LOC", 7, 9)
    assert not is_exact(units, inside)
    assert [TAGS[i] for i in tag_units(units, [inside], TAGS)] == ["O", "B-LOC", "O"]


def test_where_entities_overlap_the_first_or_longer_one_has_the_unit(task: TokenClassification) -> None:
    units = task.units("包裹太慢".encode())
    spans = [Span("PER", 1, 3), Span("LOC", 0, 2), Span("PER", 0, 1)]
    assert [TAGS[i] for i in tag_units(units, spans, TAGS)] == ["B-LOC", "I-LOC", "I-PER", "O"]


def test_spans_of_any_tags_are_seqevals() -> None:
    chooser = random.Random(0)
    schemes = (["O", "B-A", "I-A", "B-B", "I-B"], ["O", *(f"{mark}-{kind}" for mark in "BIES" for kind in "AB")])
    for scheme in schemes:
        for _ in range(500):
            tags = chooser.choices(scheme, k=chooser.randint(0, 12))
            assert [(kind, first, end - 1) for kind, first, end in spans_of_tags(tags)] == [tuple(one) for one in get_entities(tags)]


def test_measures_are_seqevals() -> None:
    chooser = random.Random(1)
    wanted = [np.array(chooser.choices(range(5), k=chooser.randint(1, 15))) for _ in range(60)]
    said = [np.where(np.array([chooser.random() < 0.3 for _ in row]), chooser.randrange(5), row) for row in wanted]
    found = entity_measures(entity_counts(wanted, said, TAGS), TAGS)
    theirs = [[[TAGS[i] for i in row] for row in rows] for rows in (wanted, said)]
    assert found["precision"] == pytest.approx(precision_score(*theirs))
    assert found["recall"] == pytest.approx(recall_score(*theirs))
    assert found["f1"] == pytest.approx(f1_score(*theirs))
    assert 0.2 < float(found["f1"]) < 0.9  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(["late", "包裹", "don't", "x" * 12, "é", "👨\u200d👩\u200d👧", "\n", "refund-card", "\ufeff"]), min_size=1, max_size=120
    )
)
def test_pieces_of_a_long_text_answer_every_unit_once(task: TokenClassification, words: list[str]) -> None:
    """Whatever the windows are, the whole text's units are answered, in order, each by one piece."""
    text = " ".join(words)
    if not text.strip().strip("\ufeff").strip():
        return
    data = text.encode()
    pieces = task.pieces(data)
    answered: list[tuple[int, int]] = []
    for piece in pieces:
        assert text[piece.start :].startswith(piece.data.decode())
        low, high = piece.own or (0, len(text))
        answered += [(unit.start + piece.start, unit.end + piece.start) for unit in task.units(piece.data) if low <= unit.start + piece.start < high]
    starts = [start for start, _ in answered]
    assert starts == sorted(set(starts))
    letters = {i for i, character in enumerate(text) if character.isascii() and character.isalpha()}
    missed = letters - {i for start, end in answered for i in range(start, end)}
    assert not missed


def test_pieces_overlap_and_fit_the_window(task: TokenClassification) -> None:
    text = "late card " * 60
    pieces = task.pieces(text.encode())
    assert len(pieces) > 5
    for before, after in pairwise(pieces):
        assert after.start < before.start + len(before.data)
        assert before.own is not None
        assert after.own is not None
        assert before.own[1] == after.own[0]
        assert before.start < after.own[0] < before.start + len(before.data)
    for piece in pieces:
        row = task.row(piece.data)
        assert len(task.units(piece.data)) == len(piece.data.decode().split()) <= task.row_shape[0] - 2
        assert (row[: len(task.units(piece.data)) + 2] != task.spec.pad_id).all()  # type: ignore[union-attr]
    assert SLACK > 0


def test_positions_count_a_byte_order_mark(task: TokenClassification) -> None:
    (unit, *_) = task.units("\ufefflate card".encode())
    assert (unit.start, unit.end) == (1, 5)


def test_target_has_a_tag_for_every_unit_and_nothing_else(task: TokenClassification) -> None:
    data = "late card 包裹".encode()
    item = Item("a", 0, lambda: data, spans=(Span("LOC", 5, 9), Span("PER", 10, 12)))
    target = task.target(item, data)
    units = task.units(data)
    assert [TAGS[target[unit.token]] for unit in units] == ["O", "B-LOC", "B-PER", "I-PER"]
    assert (target != IGNORED).sum() == len(units)


def test_word_longer_than_the_window_is_answered_once_by_its_beginning(task: TokenClassification) -> None:
    text = f"late {'x' * 200} card"
    answered = []
    for piece in task.pieces(text.encode()):
        low, high = piece.own or (0, len(text))
        answered += [unit.start + piece.start for unit in task.units(piece.data) if low <= unit.start + piece.start < high]
    assert answered[:2] == [0, 5]
    assert answered[-1] == len(text) - 4
    assert answered == sorted(set(answered))


def test_summary_of_a_text_is_of_its_entities_or_of_nothing() -> None:
    none, some = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]]), np.array([[0.9, 0.1, 0.0], [0.1, 0.7, 0.2]])
    assert summary_of(none).tolist() == pytest.approx([0.7, 0.2, 0.1])
    assert summary_of(some).tolist() == pytest.approx([0.1, 0.7, 0.2])
    assert summary_of(none[:0]).tolist() == [1.0, 0.0, 0.0]


def byte_level_task(max_length: int) -> TokenClassification:
    """The task over a byte-level BPE of no merges but of letters: white space makes tokens, and an emoji is several."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["ada lives in london"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    size = tokenizer.get_vocab_size()
    spec = TextInput(max_length=max_length, pad_id=0, unknown_id=None, special_tokens=2, vocabulary=size, tokenizer_sha256="0" * 64)
    return TokenClassification(TAGS, spec, tokenizer)


@pytest.mark.parametrize("between", ["\n" * 200, " " * 200, "\t \n" * 70])
def test_much_white_space_is_no_piece_of_its_own(between: str) -> None:
    """A tokenizer that makes tokens of white space made windows of nothing else, and the text was refused as empty."""
    task, text = byte_level_task(32), f"ada lives.{between}london"
    pieces = task.pieces(text.encode())
    answered = [text[unit.start + piece.start : unit.end + piece.start] for piece in pieces for unit in own_units(task, piece)]
    assert answered == ["ada", "lives", ".", "london"]
    for piece in pieces:
        task.decode(piece.data)


def own_units(task: TokenClassification, piece: Piece) -> list[Unit]:
    low, high = piece.own or (0, 1 << 30)
    return [unit for unit in task.units(piece.data) if low <= unit.start + piece.start < high]


def test_emoji_of_several_tokens_is_one_unit() -> None:
    task, text = byte_level_task(64), "👩\u200d👩\u200d👧 ada"
    assert [text[unit.start : unit.end] for unit in task.units(text.encode())] == ["👩\u200d👩\u200d👧", "ada"]


def test_score_is_never_above_one() -> None:
    probabilities = np.array([[0.0, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.0, 0.0]] * 3, np.float32)
    assert all(found.score <= 1.0 for found in find_entities([(0, 1), (1, 2), (2, 3)], probabilities, TAGS))


def test_entities_inside_units_are_counted(task: TokenClassification) -> None:
    data = "great parcels 包裹".encode()
    item = Item("a", 0, lambda: data, spans=(Span("LOC", 6, 13), Span("LOC", 7, 9), Span("PER", 14, 15)))
    assert task.inexact(item) == [Span("LOC", 7, 9)]


def test_decoded_text_says_which_tokens_are_answered(task: TokenClassification) -> None:
    decoded = task.decode(b"great parcels")
    assert decoded.answered is not None
    assert decoded.answered.tolist() == [unit.token for unit in task.units(b"great parcels")]
