"""What a text model must beat on the same rows: the most frequent class, and TF-IDF of characters and words with logistic regression."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fmx.data.rows import Rows
from fmx.entities import IGNORED, f1_of
from fmx.errors import missing_extra
from fmx.evaluation import counts_of
from fmx.pairs import texts_of
from fmx.ranking import ranking_of, scored_ranking_of
from fmx.scores import pearson
from fmx.statistics import accuracy_of, best_thresholds, wilson_interval
from fmx.tasks import TokenClassification

STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisations, of which the validation rows choose."""
STRENGTHS_OF_SCORES = (0.1, 1.0, 10.0)
"""The same, of the ridge regression"""
MOST_ROWS = 50_000
"""Training rows of either regression, evenly spread, at most."""
MOST_UNITS = 100_000
"""The same, of units of texts."""


def require_baselines() -> None:
    """Check before a training that its baselines can be had after it. Raises: `SurroundingsError`: scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise missing_extra("text", "The baseline of a text model")


def compare_with_baselines(rows: dict[str, Rows], labels: tuple[str, ...], metrics: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the baselines for a run's metrics, and say so in words where one of them is not beaten.

    Args:
        rows: of texts, every split.
        labels: the classes.
        metrics: of the trained model on the test rows: `accuracy`, and `ranking` where there are queries.
        say: told where it is not above.

    Returns:
        `baselines`, accuracies by `majority` and `tfidf`; with `ranking`, `ranking_baselines` too, of `tfidf`.
    """
    train, test = rows["train"], rows["test"]
    most = int(np.bincount(train.labels).argmax())
    said = tfidf_probabilities(train, rows["validation"], test, len(labels))
    found = {"majority": wilson_interval(int((test.labels == most).sum()), len(test)), "tfidf": accuracy_of(said, test.labels)}
    name, best = max(found.items(), key=lambda item: item[1].value)
    reached = metrics["accuracy"]["value"]
    if reached <= best.value:
        what = "TF-IDF with logistic regression" if name == "tfidf" else "always answering the most frequent class"
        say(f"This training did not beat {what}: {100 * reached:.2f} % against {100 * best.value:.2f} % of the test rows.")
    told: dict[str, Any] = {"baselines": {name: interval.model_dump() for name, interval in found.items()}}
    ranked = ranking_of(said, test, labels) if "ranking" in metrics else None
    if ranked is not None:
        told["ranking_baselines"] = {"tfidf": ranked}
        if metrics["ranking"]["ndcg"] <= ranked["ndcg"]:
            say(f"This training does not rank better than TF-IDF: NDCG {metrics['ranking']['ndcg']:.4f} against {ranked['ndcg']:.4f}.")
    return told


def compare_entities(
    rows: dict[str, Rows], task: TokenClassification, labels: tuple[str, ...], metrics: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Do as `compare_with_baselines` does for entities: no entity anywhere, and TF-IDF of each unit and its neighbours with logistic regression.

    Returns:
        `baselines`, accuracies over units by `majority` and `tfidf`, and `entity_baselines`, F1 of the same.
    """
    test = rows["test"]
    answers = {"majority": np.zeros(len(test.targets), np.int64), "tfidf": _tfidf_tags(rows, task)}
    found = {name: wilson_interval(int((said == test.targets).sum()), len(said)) for name, said in answers.items()}
    scores = {name: f1_of(counts_of(said, test, labels)) for name, said in answers.items()}
    _say_if_not_beaten("entities", metrics["entities"]["f1"], scores["tfidf"], say)
    return {"baselines": {name: interval.model_dump() for name, interval in found.items()}, "entity_baselines": scores}


def _say_if_not_beaten(what: str, reached: float, tfidf: float, say: Callable[[str], None]) -> None:
    if reached <= tfidf:
        against = f"F1 of {what} {100 * reached:.2f} % against {100 * tfidf:.2f} % on the test rows"
        say(f"This training did not beat TF-IDF with logistic regression: {against}.")


def compare_labels(rows: dict[str, Rows], labels: tuple[str, ...], metrics: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Do as `compare_with_baselines` does for several labels: the most frequent set of labels, and TF-IDF with a logistic regression a label.

    Returns:
        `baselines`, shares of rows wholly right by `majority` and `tfidf`, and `label_baselines`, F1 over all labels of the same.
    """
    test = rows["test"]
    sets, counts = np.unique(rows["train"].labels, axis=0, return_counts=True)
    answers = {"majority": np.tile(sets[counts.argmax()], (len(test), 1)), "tfidf": _tfidf_labels(rows, len(labels))}
    found = {name: wilson_interval(int((said == test.labels).all(axis=1).sum()), len(test)) for name, said in answers.items()}
    scores = {name: f1_of(counts_of(said.reshape(-1), test, labels)) for name, said in answers.items()}
    _say_if_not_beaten("the labels", metrics["labels"]["f1"], scores["tfidf"], say)
    return {"baselines": {name: interval.model_dump() for name, interval in found.items()}, "label_baselines": scores}


def compare_scores(rows: dict[str, Rows], metrics: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Do as `compare_with_baselines` does for scores: TF-IDF with ridge regression. The mean of all, the other baseline, correlates with nothing.

    Returns:
        `score_baselines`, Pearson's correlation by `tfidf`; with `ranking`, `ranking_baselines` too.
    """
    test = rows["test"]
    said = _tfidf_scores(rows["train"], rows["validation"], test)
    reached, of_baseline = metrics["scores"]["pearson"], pearson(said, test.scores)
    if reached <= of_baseline:
        say(f"This training did not beat TF-IDF with ridge regression: correlation {reached:.4f} against {of_baseline:.4f} on the test rows.")
    told: dict[str, Any] = {"score_baselines": {"tfidf": of_baseline}}
    if "ranking" in metrics:
        told["ranking_baselines"] = {"tfidf": scored_ranking_of(said, test)}
    return told


def _tfidf_labels(rows: dict[str, Rows], labels: int) -> np.ndarray:
    """Answer each label by itself, at the threshold that serves validation rows best: int64 [n, labels]."""
    validation, test = rows["validation"], rows["test"]
    held_out, answers = np.zeros((len(validation), labels)), np.zeros((len(test), labels))
    for label in range(labels):
        one = {name: replace(part, labels=part.labels[:, label], has_several=False) for name, part in rows.items()}
        if len(np.unique(one["train"].labels)) < 2:
            held_out[:, label] = answers[:, label] = one["train"].labels[0]
            continue
        held_out[:, label] = tfidf_probabilities(one["train"], one["validation"], one["validation"], 2)[:, 1]
        answers[:, label] = tfidf_probabilities(one["train"], one["validation"], one["test"], 2)[:, 1]
    return (answers >= np.array(best_thresholds(held_out, validation.labels))).astype(np.int64)


def count_inexact(task: TokenClassification, test: Rows, say: Callable[[str], None]) -> int:
    """Count the entities of the test rows that this tokenizer's units cannot give just so, and say how many they are, if any."""
    items = {item.name: item for item in test.wholes()}.values()
    count = sum(len(task.inexact(item)) for item in items)
    if count:
        there = sum(len(item.spans) for item in items)
        say(f"{count} of {there} entities of the test rows begin or end inside a unit of this tokenizer, and are measured as the whole unit.")
    return count


def _tfidf_tags(rows: dict[str, Rows], task: TokenClassification) -> np.ndarray:
    """Learn what units are from their letters and those of their neighbours, and tag the test rows' units: int64 [m]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(analyzer=lambda features: features, sublinear_tf=True, max_features=200_000)
    train, held_out, test = (_features_of_units(rows[split], task) for split in ("train", "validation", "test"))
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_UNITS)).astype(int))
    known = words.fit_transform([train[i] for i in chosen])
    targets, wanted = rows["train"].targets[chosen], rows["validation"].targets
    if len(set(targets.tolist())) < 2:
        return np.full(len(test), targets[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [LogisticRegression(C=strength, max_iter=100).fit(known, targets) for strength in STRENGTHS]
    unseen = words.transform(held_out)
    best = max(models, key=lambda model: float((model.predict(unseen) == wanted).mean()))
    return np.asarray(best.predict(words.transform(test)), np.int64)


def _features_of_units(rows: Rows, task: TokenClassification) -> list[list[str]]:
    """Describe every unit that bears a tag: itself, its beginning, end and kind of letters, and the units around it."""
    described: list[list[str]] = []
    for item, tags in zip(rows.items, rows.labels, strict=True):
        data = item.read()
        text, units = data.decode(), task.units(data)
        words = [text[unit.start : unit.end] for unit in units]
        padded = ["<", "<", *words, ">", ">"]
        for place, (unit, word) in enumerate(zip(units, words, strict=True)):
            if tags[unit.token] != IGNORED:
                around = [f"{offset}={padded[place + 2 + offset].lower()}" for offset in (-2, -1, 1, 2)]
                shape = f"{word.istitle():d}{word.isupper():d}{word.isdigit():d}{word.isalnum():d}"
                ends = [f"^{word[:n].lower()}" for n in (2, 3)] + [f"{word[-n:].lower()}$" for n in (2, 3)]
                described.append([f"0={word}", f"0~{word.lower()}", f"#{shape}", f"#{shape} {around[1]}", *ends, *around])
    return described


def tfidf_probabilities(train: Rows, validation: Rows, test: Rows, classes: int) -> np.ndarray:
    """Learn TF-IDF with logistic regression and answer the test rows.

    The n-grams are words and pairs of words, and one to four characters within words, or in a row for scripts without spaces. Of a pair there
    are those of each text, and how far both share them (the features of Conneau et al. 2017, arXiv:1705.02364).

    Returns:
        float64 [n, classes]
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    chosen, (features, held_out, unseen) = _tfidf_features(train, validation, test)
    labels = train.labels[chosen]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [LogisticRegression(C=strength, max_iter=300).fit(features, labels) for strength in STRENGTHS]
    best = max(models, key=lambda model: float((model.predict(held_out) == validation.labels).mean()))
    probabilities = np.zeros((len(test), classes))
    probabilities[:, best.classes_] = best.predict_proba(unseen)
    return probabilities


def _tfidf_scores(train: Rows, validation: Rows, test: Rows) -> np.ndarray:
    """Learn TF-IDF with ridge regression and answer the test rows: float64 [n]."""
    from sklearn.linear_model import Ridge

    chosen, (features, held_out, unseen) = _tfidf_features(train, validation, test)
    models = [Ridge(alpha=1.0 / strength).fit(features, train.scores[chosen]) for strength in STRENGTHS_OF_SCORES]
    best = max(models, key=lambda model: pearson(model.predict(held_out), validation.scores))
    return np.asarray(best.predict(unseen), np.float64)


def _tfidf_features(train: Rows, validation: Rows, test: Rows) -> tuple[np.ndarray, list[Any]]:
    """Give which training rows are learnt from, int64, and sparse matrices [rows, features] of them, the validation and the test rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True, max_features=200_000)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, max_features=200_000)
    union = make_union(words, characters)
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_ROWS)).astype(int))
    texts = _texts(train, chosen)
    union.fit([text for row in texts for text in row])
    return chosen, [_features(union, given) for given in (texts, _texts(validation), _texts(test))]


def _features(union: Any, rows: list[list[str]]) -> Any:
    """Give a sparse matrix [n, features]."""
    from scipy.sparse import csr_matrix, hstack

    sides = [union.transform(list(texts)) for texts in zip(*rows, strict=True)]
    if len(sides) == 1:
        return sides[0]
    products = sides[0].multiply(sides[1])  # they sum to the cosine of words and that of characters
    return hstack([*sides, products.sqrt(), abs(sides[0] - sides[1]), csr_matrix(products.sum(axis=1))]).tocsr()


def _texts(rows: Rows, chosen: np.ndarray | None = None) -> list[list[str]]:
    """Give the texts of every row, one or two."""
    indices = range(len(rows)) if chosen is None else chosen.tolist()
    return [texts_of(rows.items[i].read()) for i in indices]
