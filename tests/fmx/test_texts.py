"""Texts to rows: what people and attackers write, and that it becomes what the model's own tokenizer makes of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmx import storage
from fmx.contract import TextInput
from fmx.errors import InputError, PackageError, TooLargeError
from fmx.texts import MAX_CHARACTERS, STEP, TOKENIZER_FILE, TextReader, batch_length, open_tokenizer
from tests.texts import SPECIAL

WINDOW = 32
FAMILY = "👨\u200d👩\u200d👧\u200d👦"
ODD = [
    "hello",
    "  spaces \t and\nlines \r\n ",
    "a\0b",
    "one\u200btwo \u2060three\ufeff",
    "مرحبا بالعالم",
    "\u202eevil\u202c and good",
    f"family {FAMILY} 🇨🇳 👍🏽",
    "café cafe\u0301",
    "\u0928\u093f\u0301\u0302\u0303",
    "ＦＵＬＬ　ｗｉｄｔｈ １２３",
    "包裹今天还没有到请退款",
    "包裹late退款card",
    "\U00020000\U0002a6df and \U0001f600",
    "x" * 500,
    "word " * 200,
    "İstanbul ß ŉ ǰ",
    "don't - stop_it! (now) [here] {there} <b>&amp;</b>",
    "\u2028line\u2029paragraph\x85next",
    "\x7f\x9f\u00ad soft",
    "##word # #",
]
"""Texts that a tokenizer may trip over, without what looks like a special token."""


@pytest.fixture(scope="session")
def plain(tiny_encoder: Path) -> Any:
    """The tokenizer as transformers opens it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture(scope="session")
def ids_of(plain: Any) -> dict[str, int]:
    return {token: plain.convert_tokens_to_ids(token) for token in SPECIAL}


@pytest.fixture(scope="session")
def reader(tiny_encoder: Path, plain: Any) -> TextReader:
    return make_reader(tiny_encoder, plain)


def make_reader(folder: Path, plain: Any, window: int = WINDOW) -> TextReader:
    sha256 = storage.sha256_file(folder / TOKENIZER_FILE)
    spec = TextInput(
        max_length=window,
        pad_id=plain.pad_token_id,
        unknown_id=plain.unk_token_id,
        special_tokens=2,
        vocabulary=len(plain),
        tokenizer_sha256=sha256,
    )
    return TextReader(spec, open_tokenizer(folder / TOKENIZER_FILE, sha256))


def used(reader: TextReader, text: str) -> list[int]:
    """The ids of a text's row, without its padding."""
    row = reader.decode(text.encode()).values
    assert row.shape == reader.row_shape == (WINDOW,)
    assert row.dtype == reader.dtype == np.int32
    kept = row != reader.spec.pad_id
    length = int(kept.sum())
    assert kept[:length].all(), "there is padding between tokens"
    return [int(i) for i in row[:length]]


@pytest.mark.parametrize("text", ["", " ", "\n\t\r ", "\u3000\u2003\u00a0", "\x1c\x1d\x85\u2028"])
def test_empty_text_is_refused(reader: TextReader, text: str) -> None:
    with pytest.raises(InputError, match="empty") as caught:
        reader.decode(text.encode())
    assert caught.value.hint


@pytest.mark.parametrize("text", ["\u200b\u200d\u2060\ufeff", "\0", "\x01\x02\x7f", "\u202e\u202c", "\u00ad", " \u200b \0 ", "\u0301\u0302"])
def test_text_of_which_nothing_is_read_is_refused(reader: TextReader, text: str) -> None:
    with pytest.raises(InputError, match="nothing in the text") as caught:
        reader.decode(text.encode())
    assert caught.value.hint


@pytest.mark.parametrize(
    "data", [b"\xff", b"ok \xc3", b"\xed\xa0\x80", b"\xc0\x80", "grüße".encode("latin-1"), "包裹".encode("gb18030"), b"\xff\xfeh\0"]
)
def test_text_that_is_not_utf8_is_refused_with_the_place(reader: TextReader, data: bytes) -> None:
    with pytest.raises(InputError, match=r"not UTF-8 .* at byte") as caught:
        reader.decode(data)
    assert caught.value.hint


@pytest.mark.parametrize("character", ["a", "é", "包", "😀"])
def test_text_is_taken_up_to_the_limit_of_characters_whatever_their_bytes(reader: TextReader, character: str) -> None:
    assert len(used(reader, (character + " ") * (MAX_CHARACTERS // 2))) == WINDOW
    for data in ((character * (MAX_CHARACTERS + 1)).encode(), character.encode() * 4 * (MAX_CHARACTERS + 1)):
        with pytest.raises(TooLargeError, match="100,000") as caught:
            reader.decode(data)
        assert caught.value.hint
    assert reader.decode(b"abc", limit=3).values[0] == used(reader, "abc")[0]
    with pytest.raises(TooLargeError):
        reader.decode(b"abcd", limit=3)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a\0b", "ab"),
        ("one\u200btwo", "onetwo"),
        ("\ufeffhello", "hello"),
        ("cafe\u0301", "café"),
        ("cafe\u0301", "cafe"),
        ("  hello \r\n world", "hello world"),
        ("包裹 late", "包裹late"),
    ],
)
def test_texts_that_look_alike_become_the_same_row(reader: TextReader, text: str, same: str) -> None:
    assert used(reader, text) == used(reader, same)


def test_full_width_letters_are_not_the_plain_ones(reader: TextReader) -> None:
    """As the model's own tokenizer has it: nothing is normalised beside it."""
    assert used(reader, "ｌａｔｅ") != used(reader, "late")


def test_chinese_without_spaces_is_read_character_by_character(reader: TextReader) -> None:
    assert len(used(reader, "包裹太慢退款")) == 2 + 6


@pytest.mark.parametrize("text", ODD)
def test_ids_are_those_of_the_models_own_tokenizer(reader: TextReader, plain: Any, text: str) -> None:
    assert used(reader, text) == plain(text, truncation=True, max_length=WINDOW)["input_ids"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=120) | st.text("包裹的 latecarduo\u0301\u200d\u200b\u202e\0.!", max_size=120))
def test_any_text_is_the_tokenizers_own_row_or_refused(reader: TextReader, plain: Any, text: str) -> None:
    expected = plain(text, truncation=True, max_length=WINDOW)["input_ids"]
    if len(expected) == 2 or not text.strip():
        with pytest.raises(InputError):
            reader.decode(text.encode())
    elif not any(token in text for token in SPECIAL):
        assert used(reader, text) == expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60))
def test_any_bytes_are_a_row_or_refused(reader: TextReader, data: bytes) -> None:
    try:
        found = reader.decode(data)
    except InputError:
        return
    assert found.values[0] != reader.spec.pad_id


LOOK_ALIKES = ["[PAD]", "[SEP] x", "[MASK]", "a [PAD] b", "[PAD][PAD][PAD]", "[CLS] hello [SEP]", "[UNK]", "[pad] [sep]", "x[SEP]y", " [PAD]\0 late"]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_text_that_looks_like_a_special_token_is_text(reader: TextReader, ids_of: dict[str, int], text: str) -> None:
    ids = used(reader, text)
    assert (ids[0], ids[-1]) == (ids_of["[CLS]"], ids_of["[SEP]"])
    assert not set(ids[1:-1]) & {ids_of[token] for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")}
    assert len(ids) > 3


def test_what_looks_like_padding_hides_no_neighbour(reader: TextReader, ids_of: dict[str, int]) -> None:
    own = used(reader, "late")[1:-1]
    ids = used(reader, "late [PAD] late")
    assert ids[1 : 1 + len(own)] == own
    assert ids[-1 - len(own) : -1] == own
    assert reader.feed(reader.decode(b"[PAD] [PAD] late").values[None]).shape[1] >= STEP


@pytest.mark.parametrize("knows_unknown", [True, False])
@pytest.mark.parametrize("pieces", ["WordLevel", "Unigram", "BPE"])
def test_special_tokens_of_other_kinds_of_tokenizers_are_text_too(pieces: str, knows_unknown: bool, tmp_path: Path) -> None:
    """XLM-R and DeBERTa-v3 keep their special tokens among the pieces of a text, where a text that spells one would find it."""
    file = write_other_tokenizer(tmp_path, pieces)
    tokenizer = open_tokenizer(file)
    pad, end = tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("</s>")
    assert pad is not None
    unknown = tokenizer.token_to_id("<unk>") if knows_unknown else None
    spec = TextInput(max_length=16, pad_id=pad, unknown_id=unknown, special_tokens=2, vocabulary=100, tokenizer_sha256=storage.sha256_file(file))
    reader = TextReader(spec, tokenizer)
    for text in (b"late <pad> late </s> <pad> late", b"late <pad>", b"</s> late", b"<s> <s> <pad> late"):
        row = reader.decode(text).values
        length = int(np.flatnonzero(row != pad)[-1]) + 1
        assert (row[0], row[length - 1]) == (tokenizer.token_to_id("<s>"), end)
        assert not {pad, end, tokenizer.token_to_id("<s>")} & set(row[1 : length - 1].tolist()), text
        assert (row[:length] == tokenizer.token_to_id("late" if pieces != "Unigram" else "▁late")).sum() == text.count(b"late")


def write_other_tokenizer(folder: Path, pieces: str) -> Path:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    named = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [*"▁late<>/pds", "▁late"]
    if pieces == "Unigram":
        tokenizer = Tokenizer(models.Unigram([*((token, 0.0) for token in named), *((token, -3.0) for token in dict.fromkeys(letters))], unk_id=3))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*named, *letters, "late"]))}
        kind = (
            models.WordLevel(vocabulary, unk_token="<unk>")
            if pieces == "WordLevel"
            else models.BPE(vocabulary, [], unk_token="<unk>", ignore_merges=True)
        )
        tokenizer = Tokenizer(kind)
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in named])
    around = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    return folder / TOKENIZER_FILE


def test_cutting_at_the_window_keeps_both_ends(reader: TextReader, ids_of: dict[str, int]) -> None:
    whole, long = used(reader, "late " * 30), used(reader, "late " * 31)
    assert len(whole) == len(long) == WINDOW
    assert whole == long
    assert (long[0], long[-1]) == (ids_of["[CLS]"], ids_of["[SEP]"])
    assert long[1:-1] == used(reader, "late")[1:-1] * 30


def test_padding_and_cutting_that_a_tokenizer_asks_for_are_left_out(tiny_encoder: Path, plain: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    changed = Tokenizer.from_file(str(tiny_encoder / TOKENIZER_FILE))
    changed.enable_padding(length=64, direction="left", pad_id=plain.pad_token_id, pad_token="[PAD]")
    changed.enable_truncation(4, direction="left")
    changed.save(str(tmp_path / TOKENIZER_FILE))
    text = "the courier was late today"
    assert used(make_reader(tmp_path, plain), text) == used(make_reader(tiny_encoder, plain), text)


def test_tokenizer_that_is_not_the_models_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    file, sha256 = tiny_encoder / TOKENIZER_FILE, storage.sha256_file(tiny_encoder / TOKENIZER_FILE)
    (tmp_path / "other").write_bytes(file.read_bytes() + b" ")
    for broken, contents in (("none", None), ("empty", b""), ("list", b"[1]"), ("binary", b"\xff\x00"), ("object", b'{"model": {}}')):
        if contents is not None:
            (tmp_path / broken).write_bytes(contents)
        with pytest.raises(PackageError) as caught:
            open_tokenizer(tmp_path / broken)
        assert caught.value.hint
    with pytest.raises(PackageError, match="SHA-256 differs"):
        open_tokenizer(tmp_path / "other", sha256)
    open_tokenizer(tmp_path / "other")
    open_tokenizer(file, sha256)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_stop_while_a_tokenizer_is_read_stays_one(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]) -> None:
    class Stopped:
        @staticmethod
        def from_str(_text: str) -> Any:
            raise stop

    monkeypatch.setattr("tokenizers.Tokenizer", Stopped)
    with pytest.raises(stop):
        open_tokenizer(tiny_encoder / TOKENIZER_FILE)


def test_facts_tell_tokens_unknown_ones_and_scripts(reader: TextReader) -> None:
    facts = reader.decode("包裹 late".encode()).facts
    assert set(facts) == {"tokens", "unknown_share", "latin_share", "han_share"}
    assert facts["tokens"] == pytest.approx(math.log2(len(used(reader, "包裹 late")) - 2))
    assert facts["unknown_share"] == 0
    assert facts["han_share"] == pytest.approx(2 / 6)
    assert facts["latin_share"] == pytest.approx(4 / 6)
    assert reader.decode("嚟嚟 late".encode()).facts["unknown_share"] > 0
    assert reader.decode("привет".encode()).facts["latin_share"] == 0
    digits = reader.decode(b"12345").facts
    assert (digits["latin_share"], digits["han_share"]) == (0, 0)
    for text in ODD:
        facts = reader.decode(text.encode()).facts
        assert all(0 <= facts[name] <= 1 for name in ("unknown_share", "latin_share", "han_share")), text
        assert 0 <= facts["tokens"] <= math.log2(WINDOW)


def test_rows_of_one_bucket_are_about_as_long(reader: TextReader) -> None:
    lengths: dict[int, list[int]] = {}
    for words in range(1, WINDOW):
        found = reader.decode(b"a " * words)
        lengths.setdefault(found.bucket, []).append(int((found.values != reader.spec.pad_id).sum()))
    assert len(lengths) > 2
    assert all(max(found) < 2 * min(found) for found in lengths.values())


def test_noise_rows_are_rows(reader: TextReader) -> None:
    rows = reader.noise(50)
    assert rows.shape == (50, WINDOW)
    assert rows.dtype == np.int32
    assert ((rows >= 0) & (rows < reader.spec.vocabulary)).all()
    kept = rows != reader.spec.pad_id
    assert (np.diff(kept.astype(int), axis=1) <= 0).all()  # padding is at the end
    assert kept[:, 0].all()
    assert len(set(kept.sum(axis=1))) > 5
    assert np.array_equal(rows, reader.noise(50))
    assert reader.features(rows) == {}


@pytest.mark.parametrize("words", [(1,), (5,), (6,), (7,), (1, 13), (14, 15, 3), (30, 1), (200,)])
def test_feed_loses_no_token_and_is_as_long_as_a_multiple_of_eight(reader: TextReader, words: tuple[int, ...]) -> None:
    rows = np.stack([reader.decode(b"a " * count).values for count in words])
    fed = reader.feed(rows)
    assert fed.dtype == np.int64
    assert fed.shape[1] % STEP == 0
    assert fed.shape[1] == batch_length(rows, reader.spec.pad_id) <= WINDOW
    assert fed.shape[1] - max((rows != reader.spec.pad_id).sum(axis=1)) < STEP
    assert np.array_equal(fed, rows[:, : fed.shape[1]])
    assert (rows[:, fed.shape[1] :] == reader.spec.pad_id).all()


def test_window_that_is_no_multiple_of_eight_is_kept(tiny_encoder: Path, plain: Any) -> None:
    reader = make_reader(tiny_encoder, plain, window=13)
    row = reader.decode(b"a " * 50).values
    assert reader.feed(row[None]).shape == (1, 13)
    assert reader.noise(4).shape == (4, 13)


def test_threads_share_a_reader(reader: TextReader) -> None:
    from concurrent.futures import ThreadPoolExecutor

    texts = [f"{'late ' * (i % 40)}card {i}" for i in range(200)]
    expected = [used(reader, text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: used(reader, text), texts)) == expected


def test_reader_without_a_tokenizer_reads_nothing(reader: TextReader) -> None:
    with pytest.raises(PackageError, match="without its tokenizer"):
        TextReader(reader.spec, None).decode(b"text")
