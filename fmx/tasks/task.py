"""What every task can do: inputs to rows, rows to what a graph is fed, outputs to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from fmx.contract import ImageInput, TextInput
from fmx.decoded import Decoded
from fmx.texts import MAX_CHARACTERS

if TYPE_CHECKING:
    from fmx.data.source import Item


class Reader(Protocol):
    """One kind of input."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of rows."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one row."""

    def decode(self, data: bytes, limit: int = ...) -> Decoded:
        """Turn one input's bytes into one row. Raises: `InputError`, `TooLargeError` beyond the kind's own limit."""

    def feed(self, rows: np.ndarray) -> np.ndarray:
        """Turn rows, [n, *row_shape], into what a graph takes."""

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Give the order in which many rows run fastest: int64 [n]."""

    def features(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Measure what drift compares of rows, beside the facts of `decode`."""

    def example(self, *, whole: bool = ...) -> np.ndarray:
        """Make one row to time, of middling length or the longest."""

    def examples(self) -> dict[int, np.ndarray]:
        """Make one row to time for each bucket of `decode` that takes a time of its own, the quickest first."""

    def noise(self, count: int) -> np.ndarray:
        """Make rows of no meaning, always the same."""


class Piece(NamedTuple):
    """What of an input becomes one row."""

    data: bytes
    start: int = 0
    """Of a text: where it begins, in code points."""
    own: tuple[int, int] | None = None
    """From where to where, in the whole text, its answers count; None for all of it."""


class Answer(NamedTuple):
    """To one input."""

    prediction: dict[str, Any]
    """What a caller is told."""
    summaries: list[np.ndarray]
    """Of each of its rows, float [labels]: its probabilities as one row, for whoever watches answers."""


class Task:
    """One kind of question: a reader of its inputs, and labels."""

    name: ClassVar[str]
    input_name: ClassVar[str]
    """Of the graph's input."""
    content_types: ClassVar[tuple[str, ...]]
    """Of a body that is one input."""
    tensor: ClassVar[str]
    """Its input's name in the Open Inference Protocol."""
    large_bytes: ClassVar[int]
    """Encoded inputs beyond so many bytes are work enough for one thread at a time."""
    noun: ClassVar[str]
    """What an input is called."""
    has_several: ClassVar[bool] = False
    """Whether several labels may be said of an input, each by itself."""
    answers_with: ClassVar[Literal["labels", "entities", "score"]] = "labels"
    """What a prediction holds. Of labels with scores a caller may want some."""
    cuts: ClassVar[bool] = False
    """Whether an input may become several rows, for which it has to be read (`pieces`)."""

    def __init__(self, labels: tuple[str, ...], reader: Reader, spec: ImageInput | TextInput) -> None:
        self.labels = labels
        self.spec = spec
        self.grades: tuple[float, ...] = ()
        """What labels are worth where the answer is a score: rising, one each"""
        self.dtype, self.row_shape = reader.dtype, reader.row_shape
        self.decode, self.feed, self.order = reader.decode, reader.feed, reader.order
        self.features, self.example, self.noise = reader.features, reader.example, reader.noise
        self.examples = reader.examples

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Of one row's probabilities: (labels,)."""
        return (len(self.labels),)

    def spread(self, answers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Give a graph's answers to rows, [n, *row_shape], the shape [n, *answer_shape]: they have it."""
        return answers

    def shown(self, probabilities: np.ndarray) -> np.ndarray:
        """Give what a caller is shown of probabilities, [n, *answer_shape]: float32 [n, labels], of tokens [n, max_length, labels]."""
        return probabilities

    def pieces(self, data: bytes, limit: int = MAX_CHARACTERS) -> list[Piece]:
        """Cut an input into what is one row each: it is one. Raises: `InputError` where the input has to be read for it."""
        return [Piece(data)]

    def target(self, item: Item, data: bytes) -> np.ndarray:
        """Give what an item, whose bytes are `data`, should be answered with: int64 [], its label."""
        return np.asarray(item.label, np.int64)

    def answer(self, data: bytes, pieces: Sequence[Piece], probabilities: Sequence[np.ndarray], top_k: int) -> Answer:
        """Turn the probabilities of an input's pieces, float [*answer_shape] each, into what is told of the input."""
        return Answer(self.prediction(probabilities[0], top_k), [probabilities[0]])

    def counted(self, prediction: dict[str, Any]) -> list[tuple[str, float | None]]:
        """Give the labels, with how sure they are, that a prediction comes to for whoever counts: the first."""
        return [(prediction["labels"][0]["label"], prediction["labels"][0]["score"])]

    def row(self, data: bytes) -> np.ndarray:
        """Turn one input's bytes into one row, of `dtype` and `row_shape`. Raises: `InputError`."""
        return self.decode(data).values

    def prediction(self, probabilities: np.ndarray, top_k: int) -> dict[str, Any]:
        """Turn one row's probabilities, float [labels], into `{"labels": [{"label", "score"}]}`, best first."""
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return {"labels": [{"label": self.labels[i], "score": float(probabilities[i])} for i in order]}
