"""What a text model must beat on the same rows: the most frequent class, and TF-IDF of characters and words with logistic regression."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fmx.contract import Interval
from fmx.data.rows import Rows
from fmx.errors import missing_extra
from fmx.statistics import wilson_interval

STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisations, of which the validation rows choose."""
MOST_ROWS = 50_000
"""Training rows of the logistic regression, evenly spread, at most."""


def require_baselines() -> None:
    """Check before a training that its baselines can be had after it. Raises: `SurroundingsError`: scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise missing_extra("text", "The baseline of a text model")


def text_baselines(rows: dict[str, Rows]) -> dict[str, Interval]:
    """Measure both on the test rows: accuracies, by `majority` and `tfidf`.

    The n-grams are words and pairs of words, and one to four characters within words, or in a row for scripts without spaces.

    Args:
        rows: of texts, every split.
    """
    train, test = rows["train"], rows["test"]
    most = int(np.bincount(train.labels).argmax())
    majority = wilson_interval(int((test.labels == most).sum()), len(test))
    return {"majority": majority, "tfidf": _tfidf(train, rows["validation"], test)}


def compare_with_baselines(rows: dict[str, Rows], reached: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the baselines for a run's metrics, and say so in words where one of them is not beaten.

    Args:
        rows: of texts, every split.
        reached: accuracy of the trained model on the test rows.
        say: told where it is not above.
    """
    found = text_baselines(rows)
    name, best = max(found.items(), key=lambda item: item[1].value)
    if reached <= best.value:
        what = "TF-IDF with logistic regression" if name == "tfidf" else "always answering the most frequent class"
        say(f"This training did not beat {what}: {100 * reached:.2f} % against {100 * best.value:.2f} % of the test rows.")
    return {name: interval.model_dump() for name, interval in found.items()}


def _tfidf(train: Rows, validation: Rows, test: Rows) -> Interval:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True, max_features=200_000)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, max_features=200_000)
    union = make_union(words, characters)
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_ROWS)).astype(int))
    features, labels = union.fit_transform(_texts(train, chosen)), train.labels[chosen]
    held_out = union.transform(_texts(validation))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [LogisticRegression(C=strength, max_iter=300).fit(features, labels) for strength in STRENGTHS]
    best = max(models, key=lambda model: float((model.predict(held_out) == validation.labels).mean()))
    said = best.predict(union.transform(_texts(test)))
    return wilson_interval(int((said == test.labels).sum()), len(test))


def _texts(rows: Rows, chosen: np.ndarray | None = None) -> list[str]:
    indices = range(len(rows)) if chosen is None else chosen.tolist()
    return [rows.items[i].read().decode() for i in indices]
