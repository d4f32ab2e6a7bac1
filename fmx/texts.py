"""From a text, or a pair of texts, to the model's row of token ids: the one tokenisation function of fmx.

Training, calibration, `fmx predict`, `fmx eval` and the service all call `TextReader.decode`, with the tokenizer that lies in the run and in the
package, so a text means the same everywhere. Padding is at the end of every row, and a graph takes what is no padding into account alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fmx import storage
from fmx.contract import TextInput
from fmx.decoded import Decoded
from fmx.errors import InputError, PackageError, TooLargeError, first_line, missing_extra
from fmx.pairs import BETWEEN

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

TOKENIZER_FILE = "tokenizer.json"
MAX_LENGTH = 128
"""Tokens of a row, special ones included, unless a training says otherwise."""
MAX_CHARACTERS = 100_000
"""Of a text, unless a caller sets another limit; what is behind the model's window is cut off all the same."""
STEP = 8
"""Batches are as long as their longest row, rounded up to a multiple of this."""
LOOKED_AT = 1000
"""Characters of a text that tell its script."""


def open_tokenizer(path: Path, sha256: str | None = None) -> Tokenizer:
    """Open a tokenizer.json, without the padding and cutting that it may ask for: the row's contract says those.

    What looks like a special token in a text (`[PAD]`) is taken for text: nobody outside may mask, cut or join rows.

    Args:
        path: of the file.
        sha256: of its bytes, as the contract has it; None where there is none yet.

    Raises:
        PackageError: not there, not that file, or no tokenizer.
        SurroundingsError: `tokenizers` is not installed.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path} cannot be read ({error.strerror}).", hint="Copy the folder again, as a whole.") from error
    if sha256 is not None and storage.sha256_bytes(raw) != sha256:
        raise PackageError(f"{path} is not the tokenizer that the model was trained with (its SHA-256 differs).", hint="Copy the folder again.")
    return tokenizer_of(raw, str(path))


def tokenizer_of(serialised: bytes, name: str) -> Tokenizer:
    """Make a tokenizer of a tokenizer.json's bytes, as `open_tokenizer` does of the file.

    Args:
        serialised: UTF-8.
        name: what an error calls it.

    Raises:
        PackageError: it is none.
        SurroundingsError: `tokenizers` is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise missing_extra("serve", "Reading texts") from error
    try:
        tokenizer = Tokenizer.from_str(serialised.decode())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare exceptions, and a panic is not even one
        raise PackageError(f"{name} is no tokenizer: {first_line(error)}", hint="It is the tokenizer.json of a fast tokenizer.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def reserved_ids(tokenizer: Tokenizer, spec: TextInput) -> set[int]:
    """Give the ids that stand around texts and never in one: padding, and what is special, but for what is unknown."""
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return {*special, spec.pad_id} - {spec.unknown_id}


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Encoding:
    """Tokenise the texts of one row, one or two."""
    return tokenizer.encode(texts[0], texts[1] if len(texts) > 1 else None)


class TextReader:
    """Turns texts, or pairs of them, into rows int32 [max_length]. Safe to call from several threads at once."""

    dtype = np.dtype(np.int32)

    def __init__(self, spec: TextInput, tokenizer: Tokenizer | None) -> None:
        self.spec = spec
        self._tokenizer = tokenizer
        self._reserved: set[int] = set()
        if tokenizer is not None:
            tokenizer.enable_truncation(spec.max_length)
            self._reserved = reserved_ids(tokenizer, spec)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row: (max_length,)."""
        return (self.spec.max_length,)

    def decode(self, data: bytes, limit: int = MAX_CHARACTERS) -> Decoded:
        """Turn a text's UTF-8 bytes, or those of a pair, into one row, cut at the model's window.

        Args:
            data: UTF-8, of a pair as `joined` gives it.
            limit: most characters, of both texts of a pair together.

        Raises:
            InputError: not UTF-8, empty, white space, nothing that the tokenizer reads, or another number of texts than the model takes.
            TooLargeError: too many characters.
        """
        texts = self._texts_of(data, limit)
        ids = self._ids_of(self._opened(), texts)
        row = np.full(self.row_shape, self.spec.pad_id, self.dtype)
        row[: len(ids)] = ids
        return Decoded(row, {**_script_of(texts), **self._token_facts(ids)}, bucket=len(ids).bit_length())

    def _texts_of(self, data: bytes, limit: int) -> list[str]:
        if self.spec.texts == 1:
            return [text_of(data, limit)]
        parts = data.split(BETWEEN)
        if len(parts) != self.spec.texts:
            raise InputError("The input is not a pair of texts in UTF-8.", hint="Send two texts.")
        texts = [text_of(part, limit, f"{which} text") for which, part in zip(("first", "second"), parts, strict=True)]
        if sum(map(len, texts)) > limit:
            raise _too_long(limit, "pair")
        return texts

    def _ids_of(self, tokenizer: Tokenizer, texts: list[str]) -> list[int]:
        """Tokenise. A piece of a text that spells a special token is unknown: XLM-R and DeBERTa keep theirs among the pieces of texts."""
        encoding = encoded(tokenizer, texts)
        told = zip(encoding.ids, encoding.special_tokens_mask, encoding.sequence_ids, strict=True)
        read = [(i if is_around or i not in self._reserved else self.spec.unknown_id, place) for i, is_around, place in told]
        kept = [(i, place) for i, place in read if i is not None]
        if len({place for _, place in kept} - {None}) < len(texts):
            what = "the text" if len(texts) == 1 else "one text of the pair"
            raise InputError(f"There is nothing in {what} that the model could read.", hint="It holds only control or invisible characters.")
        return [i for i, _ in kept]

    def places(self, text: str) -> tuple[list[tuple[int, int]], list[int]]:
        """Give what `decode` makes no use of: each token's start and end in a text, and whether it stands around the text. In the row's order."""
        encoding = encoded(self._opened(), [text])
        told = zip(encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True)
        is_dropped = self._reserved if self.spec.unknown_id is None else set()
        kept = [(place, is_around) for i, is_around, place in told if is_around or i not in is_dropped]
        return [place for place, _ in kept], [is_around for _, is_around in kept]

    def token_starts(self, text: str) -> list[int]:
        """Give where every token of a text begins, however long it is."""
        return [start for start, _ in self._of_whole_texts.encode(text, add_special_tokens=False).offsets]

    @cached_property
    def _of_whole_texts(self) -> Tokenizer:
        """The tokenizer without truncation. What is behind the window is not in `Encoding.overflowing` of tokenizers 0.23.1 and 0.23.2."""
        return tokenizer_of(self._opened().to_str().encode(), TOKENIZER_FILE)

    def _opened(self) -> Tokenizer:
        if self._tokenizer is None:
            raise PackageError("This model was opened without its tokenizer.", hint="Open its package, or its run.")
        return self._tokenizer

    def _token_facts(self, ids: list[int]) -> dict[str, float]:
        own = len(ids) - self.spec.special_tokens
        unknown = ids.count(self.spec.unknown_id) / own if self.spec.unknown_id is not None else 0.0
        return {"tokens": math.log2(own), "unknown_share": unknown}

    def feed(self, rows: np.ndarray) -> np.ndarray:
        """Cut rows to the longest of them, rounded up to a multiple of `STEP`: int32 [n, max_length] to int64 [n, length]."""
        return rows[:, : batch_length(rows, self.spec.pad_id)].astype(np.int64)

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Give the order in which many rows run fastest: the short ones first, int64 [n]."""
        return order_by_length(rows, self.spec.pad_id)

    def features(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Give nothing: what drift compares of a text is told by its facts."""
        return {}

    def example(self, *, whole: bool = False) -> np.ndarray:
        """Make a row of half the window, or of all of it, to time: int32 [1, max_length]."""
        return self._row_of(self.spec.max_length if whole else max(1, self.spec.max_length // 2))

    def examples(self) -> dict[int, np.ndarray]:
        """Make a row of middling length, int32 [1, max_length], for each bucket from `STEP` tokens on, the shortest first."""
        buckets = range(STEP.bit_length(), max(STEP, self.spec.max_length).bit_length() + 1)
        lengths = {bucket: min(3 * 2 ** (bucket - 2), self.spec.max_length) for bucket in buckets}
        return {bucket: self._row_of(length) for bucket, length in lengths.items()}

    def _row_of(self, length: int) -> np.ndarray:
        row = np.full((1, self.spec.max_length), (self.spec.pad_id + 1) % self.spec.vocabulary, self.dtype)
        row[:, length:] = self.spec.pad_id
        return row

    def noise(self, count: int) -> np.ndarray:
        """Make rows of random ids and lengths, always the same: int32 [count, max_length]."""
        random = np.random.default_rng(0)
        rows = random.integers(0, self.spec.vocabulary, (count, self.spec.max_length), dtype=np.int32)
        rows[rows == self.spec.pad_id] = (self.spec.pad_id + 1) % self.spec.vocabulary
        lengths = random.integers(min(STEP, self.spec.max_length), self.spec.max_length + 1, count)
        rows[np.arange(self.spec.max_length) >= lengths[:, None]] = self.spec.pad_id
        return rows


def spread_answers(answers: np.ndarray, rows: np.ndarray, pad_id: int) -> np.ndarray:
    """Give answers to tokens, float [n, length, labels], the length of the window, and 0 where rows, int32 [n, max_length], are padding."""
    spread = np.zeros((len(rows), rows.shape[1], answers.shape[2]), answers.dtype)
    length = min(answers.shape[1], rows.shape[1])
    spread[:, :length] = answers[:, :length] * (rows[:, :length] != pad_id)[:, :, None]
    return spread


def lengths_of(rows: np.ndarray, pad_id: int) -> np.ndarray:
    """Count the tokens of rows, special ones included: int32 [n, max_length] to int64 [n]."""
    return np.asarray((rows != pad_id).sum(axis=1))


def order_by_length(rows: np.ndarray, pad_id: int) -> np.ndarray:
    """Give the order in which rows, int32 [n, max_length], run with the least padding: int64 [n]."""
    return np.argsort(lengths_of(rows, pad_id), kind="stable")


def batch_length(rows: np.ndarray, pad_id: int) -> int:
    """Give the length that a batch of rows, int32 [n, max_length], is cut to."""
    used = np.flatnonzero((rows != pad_id).any(axis=0))
    return padded_length(int(used[-1]) + 1 if len(used) else 1, int(rows.shape[1]))


def padded_length(longest: int, window: int) -> int:
    """Round the longest row's length up to a multiple of `STEP`, within the window."""
    return min(window, -(-longest // STEP) * STEP)


def text_of(data: bytes, limit: int, what: str = "text") -> str:
    """Read a text, without its byte order mark. Raises: `InputError`, `TooLargeError` as `TextReader.decode`."""
    if len(data) > 4 * limit:  # no character is longer in UTF-8
        raise _too_long(limit, what)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"The {what} is not UTF-8 ({error.reason} at byte {error.start}).", hint="Send it as UTF-8.") from error
    text = text.removeprefix("\ufeff")  # a byte order mark, as a table's readers take it off
    if len(text) > limit:
        raise _too_long(limit, what)
    if not text.strip():
        raise InputError(f"The {what} is empty.", hint="Send some words.")
    return text


def _too_long(limit: int, what: str) -> TooLargeError:
    return TooLargeError(f"The {what} has more than {limit:,} characters.", hint="Send it in parts.")


def _script_of(texts: list[str]) -> dict[str, float]:
    """Give the shares of the letters that are Latin without accents and Han, from the beginning of each text."""
    letters = [character for text in texts for character in text[:LOOKED_AT] if character.isalpha()]
    count = max(1, len(letters))
    han = sum("\u3400" <= character <= "\u9fff" for character in letters)
    return {"latin_share": sum(map(str.isascii, letters)) / count, "han_share": han / count}
