"""Token classification: a text in, the entities in it out, as spans of its characters. A text longer than the window is read in pieces."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fmx.contract import TextInput
from fmx.decoded import Decoded
from fmx.entities import IGNORED, Found, Span, Unit, find_entities, is_exact, summary_of, tag_units, units_of
from fmx.task_names import TOKENS
from fmx.tasks.task import Answer, Piece
from fmx.tasks.text_classification import TextClassification
from fmx.texts import MAX_CHARACTERS, spread_answers, text_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from fmx.data.source import Item

OVERLAP = 4
"""Pieces of a long text overlap by the window over this: each unit is answered where there is text on both its sides."""
SLACK = 2
"""Tokens of a window that are left free, for a piece may begin with another token than the text has there."""


class TokenClassification(TextClassification):
    """Rows are token ids, int32 [max_length]; outputs are probabilities float32 [max_length, labels], of which those of units count."""

    name = TOKENS
    answers_with = "entities"
    cuts = True

    def __init__(self, labels: tuple[str, ...], spec: TextInput, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(labels, spec, tokenizer)
        self.decode = self._decoded
        self._capacity = spec.max_length - spec.special_tokens
        self._pad_id = spec.pad_id

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Of one row's probabilities: (max_length, labels)."""
        return (*self.row_shape, len(self.labels))

    def spread(self, answers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Give a graph's answers, float32 [n, length, labels], the length of the window; padding is answered with 0."""
        return spread_answers(answers, rows, self._pad_id)

    def pieces(self, data: bytes, limit: int = MAX_CHARACTERS) -> list[Piece]:
        """Cut a text that is longer than the window into pieces that overlap, where units begin. Raises: `InputError`, `TooLargeError`."""
        text = text_of(data, limit)
        starts = self._reader.token_starts(text)
        if len(starts) <= self._capacity:
            return [Piece(data)]
        begins = _begins(text, starts)
        cuts = _cuts(begins, starts, max(1, self._capacity - SLACK), len(text))
        ends = [(end + start) // 2 for (_, end), (start, _) in pairwise(cuts)]
        own = zip([0, *ends], [*ends, len(text)], strict=True)
        shift = _mark_before(data)
        places = [starts[begin] for begin in begins]
        return [
            Piece(text[start:end].encode(), start + shift, (low + shift, high + shift))
            for (start, end), (low, high) in zip(cuts, own, strict=True)
            if bisect_left(places, low) < bisect_left(places, high)  # some tokenizers make tokens of white space, of which there may be much
        ] or [Piece(data)]

    def _decoded(self, data: bytes, limit: int = MAX_CHARACTERS) -> Decoded:
        """Turn a text into one row, as every text, and say which of its tokens are answered. Raises: as `TextReader.decode`."""
        return self._reader.decode(data, limit)._replace(answered=np.array([unit.token for unit in self.units(data)], np.int64))

    def units(self, data: bytes) -> list[Unit]:
        """Give the units of a text that fits the window, or of as much of it as does."""
        shift = _mark_before(data)
        text = data.decode()[shift:]
        return [Unit(token, start + shift, end + shift) for token, start, end in units_of(text, *self._reader.places(text))]

    def inexact(self, item: Item) -> list[Span]:
        """Give the entities of an item that begin or end inside a unit: learnt and measured as the whole unit, they cannot be found just so."""
        data = item.read()
        shift, text = _mark_before(data), data.decode()
        starts = self._reader.token_starts(text[shift:])
        units = [Unit(0, start + shift, end + shift) for _, start, end in _units_by_starts(text[shift:], starts)]
        return [span for span in item.spans if not is_exact(units, span)]

    def target(self, item: Item, data: bytes) -> np.ndarray:
        """Give the tags of an item's units: int64 [max_length], `IGNORED` where a position has none."""
        units = self.units(data)
        tags = tag_units(units, item.spans, self.labels)
        low, high = item.own or (0, len(data))
        target = np.full(self.row_shape, IGNORED, np.int64)
        for unit, tag in zip(units, tags, strict=True):
            if low <= unit.start < high:
                target[unit.token] = tag
        return target

    def answer(self, data: bytes, pieces: Sequence[Piece], probabilities: Sequence[np.ndarray], top_k: int) -> Answer:
        """Turn probabilities, float [max_length, labels] a piece, into `{"entities": [{"label", "start", "end", "text", "score"}]}`, in order.

        Positions are Unicode code points of the text; `top_k` is for other tasks.
        """
        places: list[tuple[int, int]] = []
        answers: list[np.ndarray] = []
        for piece, said in zip(pieces, probabilities, strict=True):
            low, high = piece.own or (0, len(data))
            own = [unit for unit in self.units(piece.data) if low <= unit.start + piece.start < high]
            places += [(unit.start + piece.start, unit.end + piece.start) for unit in own]
            answers.append(said[[unit.token for unit in own]])
        text = data.decode()
        found = find_entities(places, np.concatenate(answers), self.labels)
        return Answer({"entities": [_shown(text, entity) for entity in found]}, [summary_of(said) for said in answers])

    def counted(self, prediction: dict[str, Any]) -> list[tuple[str, float | None]]:
        """Give every entity's kind and score."""
        return [(entity["label"], entity["score"]) for entity in prediction["entities"]]


def _shown(text: str, entity: Found) -> dict[str, Any]:
    return {"label": entity.label, "start": entity.start, "end": entity.end, "text": text[entity.start : entity.end], "score": entity.score}


def _mark_before(data: bytes) -> int:
    """Count the byte order mark before a text: tokenizers do not see it, and positions count it."""
    return int(data.startswith(b"\xef\xbb\xbf"))


def _begins(text: str, starts: list[int]) -> list[int]:
    """Say with which of a text's tokens a unit begins, by where they start."""
    return [unit.token for unit in _units_by_starts(text, starts)]


def _units_by_starts(text: str, starts: list[int]) -> list[Unit]:
    """Cut a text into units by where all of its tokens start, however long it is."""
    return units_of(text, zip(starts, [*starts[1:], len(text)], strict=True), [False] * len(starts))


def _cuts(begins: list[int], starts: list[int], capacity: int, length: int) -> list[tuple[int, int]]:
    """Choose pieces of at most so many tokens, of which each begins before the one in front of it ends, and where a unit does.

    Args:
        begins: tokens with which a unit begins.
        starts: of all tokens of a text that is longer than the window.
        capacity: tokens of a piece.
        length: of the text.
    """
    cuts: list[tuple[int, int]] = []
    first = 0
    while first + capacity < len(starts):
        end = _last(begins, first + 1, first + capacity) or first + capacity  # a word may be longer than the window
        cuts.append((starts[first], starts[end]))
        back = end - capacity // OVERLAP
        first = _last(begins, first + 1, back) or _first(begins, max(first, back) + 1, end) or end
    return [*cuts, (starts[first], length)]


def _last(begins: list[int], low: int, high: int) -> int | None:
    """Give the last of ascending numbers that is from `low` to `high`."""
    place = bisect_right(begins, high) - 1
    return begins[place] if place >= 0 and begins[place] >= low else None


def _first(begins: list[int], low: int, high: int) -> int | None:
    """Give the first of ascending numbers that is from `low` to `high`."""
    place = bisect_left(begins, low)
    return begins[place] if place < len(begins) and begins[place] <= high else None
