"""Several labels a text: a text in, of every label how likely it is said of the text out. A label is said from 0.5 on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmx.statistics import as_shares
from fmx.task_names import LABELS
from fmx.tasks.task import Answer, Piece
from fmx.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from fmx.data.source import Item

SAID = 0.5
"""From here on a label is said: the thresholds that validation rows chose are in the head, which is shifted by them."""


class TextLabels(TextClassification):
    """Rows are token ids, int32 [max_length]; outputs float32 [labels], kept as pairs [labels, 2]: that a label is not said, and that it is."""

    name = LABELS
    has_several = True

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Of one row's probabilities: (labels, 2)."""
        return (len(self.labels), 2)

    def spread(self, answers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Give a graph's answers, float32 [n, labels], as pairs, [n, labels, 2], of which the second is the answer; pairs stay."""
        return answers if answers.ndim == 3 else np.stack([1.0 - answers, answers], axis=2)

    def shown(self, probabilities: np.ndarray) -> np.ndarray:
        """Give what a caller is shown: float32 [n, labels]."""
        return probabilities[..., 1]

    def target(self, item: Item, data: bytes) -> np.ndarray:
        """Give which labels are said of an item: int64 [labels], 1 or 0."""
        target = np.zeros(len(self.labels), np.int64)
        target[[*item.several]] = 1
        return target

    def prediction(self, probabilities: np.ndarray, top_k: int) -> dict[str, Any]:
        """Turn one row's probabilities, float [labels, 2], into `{"labels": [{"label", "score", "said"}]}`, best first."""
        told = super().prediction(probabilities[:, 1], top_k)
        return {"labels": [{**one, "said": one["score"] >= SAID} for one in told["labels"]]}

    def answer(self, data: bytes, pieces: Sequence[Piece], probabilities: Sequence[np.ndarray], top_k: int) -> Answer:
        """Do as every task does; a row's summary are its labels' probabilities, as shares of their sum."""
        return Answer(self.prediction(probabilities[0], top_k), [as_shares(probabilities[0][:, 1])])

    def counted(self, prediction: dict[str, Any]) -> list[tuple[str, float | None]]:
        """Give the labels that are said, with their scores."""
        return [(one["label"], one["score"]) for one in prediction["labels"] if one["said"]]
