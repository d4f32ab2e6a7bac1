"""Text pair: two texts in, such as a question and an answer, labels with scores out, and one score to rank by where labels say how relevant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fmx.contract import TextInput
from fmx.ranking import relevance_of, score_of
from fmx.task_names import PAIRS
from fmx.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TextPair(TextClassification):
    """Rows are the token ids of both texts, int32 [max_length]; outputs are probabilities float32 [classes]."""

    name = PAIRS
    content_types = ()
    tensor = "pair"
    noun = "pair"
    texts = 2

    def __init__(self, labels: tuple[str, ...], spec: TextInput, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(labels, spec, tokenizer)
        self._relevance = relevance_of(labels)

    def prediction(self, probabilities: np.ndarray, top_k: int) -> dict[str, Any]:
        """Turn one row's probabilities, float [labels], into `{"labels": ..., "score"}`; no score where labels have no relevance (`fmx.ranking`)."""
        answer = super().prediction(probabilities, top_k)
        if self._relevance is not None:
            answer["score"] = float(score_of(probabilities, self._relevance))
        return answer
