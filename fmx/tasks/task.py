"""What every task can do: inputs to rows, rows to what a graph is fed, outputs to predictions."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np

from fmx.contract import ImageInput, TextInput
from fmx.decoded import Decoded


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

    def noise(self, count: int) -> np.ndarray:
        """Make rows of no meaning, always the same."""


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

    def __init__(self, labels: tuple[str, ...], reader: Reader, spec: ImageInput | TextInput) -> None:
        self.labels = labels
        self.spec = spec
        self.dtype, self.row_shape = reader.dtype, reader.row_shape
        self.decode, self.feed, self.order = reader.decode, reader.feed, reader.order
        self.features, self.example, self.noise = reader.features, reader.example, reader.noise

    def row(self, data: bytes) -> np.ndarray:
        """Turn one input's bytes into one row, of `dtype` and `row_shape`. Raises: `InputError`."""
        return self.decode(data).values

    def prediction(self, probabilities: np.ndarray, top_k: int) -> dict[str, Any]:
        """Turn one row's probabilities, float [labels], into `{"labels": [{"label", "score"}]}`, best first."""
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return {"labels": [{"label": self.labels[i], "score": float(probabilities[i])} for i in order]}
