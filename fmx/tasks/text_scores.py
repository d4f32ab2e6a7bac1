"""Scores of pairs: two texts in, one number on the scale of the training scores out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fmx.contract import TextInput
from fmx.scores import expected, grades_of, nearest
from fmx.task_names import SCORES
from fmx.tasks.text_pair import TextPair

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TextScores(TextPair):
    """Rows are the token ids of both texts, int32 [max_length]; outputs are probabilities of grades, float32 [grades] (`fmx.scores`)."""

    name = SCORES
    answers_with = "score"

    def __init__(self, labels: tuple[str, ...], spec: TextInput, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(labels, spec, tokenizer)
        self.grades = grades_of(labels)

    def prediction(self, probabilities: np.ndarray, top_k: int) -> dict[str, Any]:
        """Turn one row's probabilities, float [grades], into `{"score"}`."""
        return {"score": float(expected(probabilities, self.grades))}

    def counted(self, prediction: dict[str, Any]) -> list[tuple[str, float | None]]:
        """Give the grade that the score is nearest to; how sure it is, a score does not say."""
        return [(self.labels[int(nearest(np.array([prediction["score"]]), self.grades)[0])], None)]
