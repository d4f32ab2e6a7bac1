"""Candidates put in order by more than their texts: the model's score beside how popular an item is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from examples.recommendation.clicks import Shown
from fmx.pairs import joined
from fmx.predictor import PackagePredictor
from fmx.ranking import ranking_measures


def scores_of(predictor: PackagePredictor, shown: Sequence[Shown]) -> np.ndarray:
    """Ask the package how likely each candidate is clicked: float [n]."""
    answers = predictor.predict([joined([row.history.encode(), row.item.encode()]) for row in shown])
    return np.array([answer["score"] for answer in answers])


def features_of(scores: np.ndarray, shown: Sequence[Shown]) -> np.ndarray:
    """Put the logit of the score beside the logarithm of the popularity: float [n, 2]."""
    sure = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.column_stack([np.log(sure / (1 - sure)), np.log([row.popularity for row in shown])])


def fit_reranker(scores: np.ndarray, shown: Sequence[Shown]) -> LogisticRegression:
    """Learn how the features weigh, on impressions that the model was not trained on."""
    return LogisticRegression().fit(features_of(scores, shown), [row.clicked for row in shown])


def measure(scores: np.ndarray, shown: Sequence[Shown]) -> dict[str, Any]:
    """Give MRR, NDCG and recall of an order, over the impressions with a click."""
    found = ranking_measures(scores, np.array([row.clicked for row in shown], dtype=np.float64), [row.impression for row in shown])
    if found is None:
        raise ValueError("No impression has a click.")
    return found
