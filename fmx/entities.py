"""Entities in a text: from spans of characters to a tag for each unit of the text, and back.

Tokenizers cut words in their own ways, so tags are not put on tokens but on units: a token with what follows it in the same word, told by the
text's own characters. A model answers each unit at its first token. Positions are Unicode code points of the text as it was given.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fmx.statistics import precision_recall_f1

OUTSIDE = "O"
IGNORED = -100
"""Of a position of a row that bears no tag."""
SCHEMES = {"B": "B", "I": "I", "E": "I", "S": "B", "L": "I", "U": "B", "M": "I"}
"""BIO, BIOES, BILOU and BMES: what begins an entity, and what goes on with it."""
_ENDS = ("E", "S", "L", "U")
_WITHOUT_SPACES = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x31FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF)),
    *((0xFE30, 0xFE4F), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF)),
)
"""Blocks of scripts that write no spaces between words, and their signs: Thai, Lao, Burmese, Khmer, Kana, Han, full-width forms."""


class Span(NamedTuple):
    """One entity: `text[start:end]`, in code points."""

    label: str
    start: int
    end: int


class Unit(NamedTuple):
    """A piece of a text that bears one tag."""

    token: int
    """Position in the row of its first token, where the model answers it."""
    start: int
    end: int


class Found(NamedTuple):
    """An entity that a model found."""

    label: str
    start: int
    end: int
    score: float
    """Mean over its units of the probability that they are of its kind."""


def tags_of(labels: Iterable[str]) -> tuple[str, ...]:
    """Give what a model answers for kinds of entities: `O`, and `B-` and `I-` of each, sorted."""
    return (OUTSIDE, *(f"{mark}-{label}" for label in sorted(set(labels)) for mark in ("B", "I")))


def kinds_of(tags: Sequence[str]) -> tuple[str, ...]:
    """Give the kinds of entities that tags speak of, in their order."""
    return tuple(dict.fromkeys(tag[2:] for tag in tags if tag != OUTSIDE))


def units_of(text: str, offsets: Iterable[tuple[int, int]], is_special: Iterable[bool | int]) -> list[Unit]:
    """Cut a text into units, by its tokens.

    Args:
        text: that was tokenised.
        offsets: start and end of every token of the row, special ones included.
        is_special: whether a token stands around the text; those, and tokens of no character, are no units.
    """
    units: list[Unit] = []
    for position, ((start, end), is_around) in enumerate(zip(offsets, is_special, strict=True)):
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if is_around or start >= end:
            continue
        last = units[-1] if units else None
        if last is not None and (start < last.end or _are_one_word(text, last.end, start)):
            units[-1] = last._replace(end=max(end, last.end))
        else:
            units.append(Unit(position, start, end))
    return [unit._replace(end=_with_marks(text, unit.end)) for unit in units]


def _with_marks(text: str, end: int) -> int:
    """Go on over the marks on a character, which some tokenizers drop."""
    while end < len(text) and _is_mark(text[end]):
        end += 1
    return end


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _are_one_word(text: str, end: int, start: int) -> bool:
    """Say whether what ends and what starts behind it are of one word: nothing is between them but what tokenizers drop from within words."""
    if not all(map(_is_within_words, text[end:start])):
        return False
    before, after = text[end - 1], text[start]
    return _is_mark(after) or "\u200d" in (before, after, text[start - 1]) or (_is_of_word(before) and _is_of_word(after))


def _is_within_words(character: str) -> bool:
    """Say whether a character is a mark, or shows nothing and parts no words: joiners and soft hyphens, but no zero-width space."""
    return _is_mark(character) or (unicodedata.category(character) == "Cf" and character not in "\u200b\ufeff")


def _is_of_word(character: str) -> bool:
    return writes_spaces(character) and (character.isalnum() or _is_mark(character))


def writes_spaces(character: str) -> bool:
    """Say whether a character is of a script that writes spaces between words."""
    code = ord(character)
    return code < _WITHOUT_SPACES[0][0] or not any(low <= code <= high for low, high in _WITHOUT_SPACES)


def tag_units(units: Sequence[Unit], spans: Sequence[Span], tags: Sequence[str]) -> np.ndarray:
    """Tag units by the entities that they are of, even in part; where entities overlap the one that begins first, or is longer, has the unit.

    Returns:
        int64 [units], positions in `tags`.
    """
    index = {tag: i for i, tag in enumerate(tags)}
    found = np.full(len(units), index[OUTSIDE], np.int64)
    for span in sorted(spans, key=lambda span: (span.start, -span.end), reverse=True):  # the first ones last: they have the last word
        inside = [i for i, unit in enumerate(units) if unit.start < span.end and unit.end > span.start]
        for place, i in enumerate(inside):
            found[i] = index[f"{'I' if place else 'B'}-{span.label}"]
    return found


def is_exact(units: Sequence[Unit], span: Span) -> bool:
    """Say whether an entity begins and ends where units do, so that a model could find just it."""
    inside = [unit for unit in units if unit.start < span.end and unit.end > span.start]
    return bool(inside) and inside[0].start >= span.start and inside[-1].end <= span.end


def spans_of_tags(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Read entities out of a sequence of tags of any scheme, as conlleval and seqeval do: what goes on with nothing begins.

    Returns:
        (kind, first, one behind the last) in positions of the sequence.
    """
    found: list[tuple[str, int, int]] = []
    begun: tuple[str, int] | None = None
    ended = False
    for position, tag in enumerate([*tags, OUTSIDE]):
        mark, _, kind = tag.partition("-")
        goes_on = begun is not None and not ended and SCHEMES.get(mark) == "I" and kind == begun[0]
        if begun is not None and not goes_on:
            found.append((begun[0], begun[1], position))
            begun = None
        if begun is None and mark in SCHEMES:
            begun = (kind, position)
        ended = mark in _ENDS
    return found


def find_entities(units: Sequence[tuple[int, int]], probabilities: np.ndarray, tags: Sequence[str]) -> list[Found]:
    """Read entities out of a model's answers.

    Args:
        units: start and end of each, in order.
        probabilities: float [units, tags].
        tags: the model's labels, as `tags_of` gives them.
    """
    kinds = {kind: [i for i, tag in enumerate(tags) if tag[2:] == kind and tag != OUTSIDE] for kind in kinds_of(tags)}
    said = [tags[i] for i in probabilities.argmax(axis=1)] if len(probabilities) else []
    return [
        Found(kind, units[first][0], units[end - 1][1], min(1.0, float(probabilities[first:end, kinds[kind]].sum(axis=1).mean())))
        for kind, first, end in spans_of_tags(said)
    ]


def summary_of(probabilities: np.ndarray) -> np.ndarray:
    """Make one row of the answers to a text's units, as if the text itself had been answered: float [tags].

    It is the mean over the units that are said to be of an entity, or where none is, over all of them; without units surely `O`.

    Args:
        probabilities: float [units, tags], of which the first is `O`.
    """
    if not len(probabilities):
        return np.asarray(np.eye(1, probabilities.shape[1])[0], probabilities.dtype)
    is_entity = probabilities.argmax(axis=1) > 0
    return np.asarray(probabilities[is_entity if is_entity.any() else slice(None)].mean(axis=0))


def entity_counts(wanted: Sequence[np.ndarray], said: Sequence[np.ndarray], tags: Sequence[str]) -> np.ndarray:
    """Count entities a text: int64 [texts, kinds, 3], of each kind those rightly found, those found, and those there.

    An entity is right where its kind, its beginning and its end are (Tjong Kim Sang and De Meulder 2003, the CoNLL-2003 shared task).

    Args:
        wanted: of each text, int [units], positions in `tags`.
        said: the same, as answered.
        tags: the labels.
    """
    kinds = {kind: i for i, kind in enumerate(kinds_of(tags))}
    counts = np.zeros((len(wanted), len(kinds), 3), np.int64)
    for row, (gold, answer) in enumerate(zip(wanted, said, strict=True)):
        there, found = ({*spans_of_tags([tags[i] for i in sequence])} for sequence in (gold, answer))
        for place, spans in enumerate((there & found, found, there)):
            for kind, _, _ in spans:
                counts[row, kinds[kind], place] += 1
    return counts


def entity_measures(counts: np.ndarray, tags: Sequence[str]) -> dict[str, object]:
    """Give precision, recall and F1 over all entities, and of each kind, from `entity_counts`; a measure of nothing is 0."""
    kinds = kinds_of(tags)
    table = [{"label": kind, **_measures(counts[:, i].sum(axis=0))} for i, kind in enumerate(kinds)]
    return {**_measures(counts.sum(axis=(0, 1))), "kinds": table}


def f1_of(counts: np.ndarray) -> float:
    """Give F1 over all entities, from int64 [..., 3] of right, found and there."""
    return precision_recall_f1(counts.reshape(-1, 3).sum(axis=0))["f1"]


def _measures(counts: np.ndarray) -> dict[str, float]:
    _, found, there = (int(value) for value in counts)
    return {**precision_recall_f1(counts), "entities": there, "found": found}
