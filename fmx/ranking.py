"""Candidates of one query put in order: what a label is worth, the score to sort by, and how good an order is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmx.scores import expected

if TYPE_CHECKING:
    from fmx.data.rows import Rows

CUT = 10
"""Candidates that NDCG and recall look at."""
RELEVANT = frozenset({"yes", "true", "relevant", "click", "clicked", "positive", "match", "duplicate", "related", "answer"})
"""What the better one of two labels may be called, in any case."""
_NUMBER = re.compile(r"[0-9]{1,6}")


def relevance_of(labels: Sequence[str]) -> np.ndarray | None:
    """Say what each label is worth.

    Args:
        labels: whole numbers, of which the lowest is not relevant, or two, of which one is among `RELEVANT`.

    Returns:
        float64 [labels] between 0 and 1, the best being 1; None where labels have no order, such as `entailment` and `neutral`.
    """
    if all(_NUMBER.fullmatch(label) for label in labels):
        return worth_of([int(label) for label in labels])
    grades = [label.casefold() in RELEVANT for label in labels]
    return worth_of(grades) if len(labels) == 2 and sum(grades) == 1 else None


def worth_of(grades: Sequence[float]) -> np.ndarray | None:
    """Scale grades to between 0 and 1: float64 [grades]; None where they are all the same."""
    above = np.asarray(grades, dtype=np.float64)
    above = above - above.min()
    return above / above.max() if above.max() else None


def score_of(probabilities: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Give the relevance to expect, by which candidates are sorted: float [..., labels] to float [...], between 0 and 1."""
    return np.asarray((probabilities @ relevance).clip(0.0, 1.0))


def ranking_of(probabilities: np.ndarray, rows: Rows, labels: Sequence[str]) -> dict[str, Any] | None:
    """Measure the order that answers, float [n, labels], give the candidates of rows' queries; None where rows or labels have no such thing."""
    if rows.grades:
        return scored_ranking_of(expected(probabilities, rows.grades), rows)
    relevance, queries = relevance_of(labels), [item.query for item in rows.items]
    if relevance is None or not any(queries):
        return None
    return ranking_measures(score_of(probabilities, relevance), relevance[rows.labels], queries)


def scored_ranking_of(said: np.ndarray, rows: Rows) -> dict[str, Any] | None:
    """Measure the order of scores, float [n], beside the rows' own, whose gain is their height on the scale; relevant is its upper half."""
    low, high = rows.grades[0], rows.grades[-1]
    queries = [item.query for item in rows.items]
    return ranking_measures(said, ((rows.scores - low) / (high - low)).clip(0.0, 1.0), queries, above=0.5) if any(queries) else None


def ranking_measures(scores: np.ndarray, relevance: np.ndarray, queries: Sequence[str | None], above: float = 0.0) -> dict[str, Any] | None:
    """Measure the order that scores give the candidates of each query, averaged over the queries that have a relevant candidate.

    Ties are taken in the order that says least for the scores: the less relevant first.

    Args:
        scores: float [n].
        relevance: float [n], 0 for what is not relevant.
        queries: [n]; rows without one are left out.
        above: what relevance counts as relevant where that is a matter of yes and no, for MRR, recall and whether a query is measured.

    Returns:
        `queries` and `candidates` that were measured; `mrr`, the mean of one over the first relevant rank; `ndcg`, within the first `CUT`, with the
        relevance as gain (Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques"); `recall`, the share of the relevant
        that are within the first `CUT`. None without such a query.
    """
    groups: dict[str, list[int]] = {}
    for index, query in enumerate(queries):
        if query is not None:
            groups.setdefault(query, []).append(index)
    found = [_of_query(scores[rows], relevance[rows], above) for rows in map(np.array, groups.values()) if (relevance[rows] > above).any()]
    if not found:
        return None
    mrr, ndcg, recall, candidates = (float(value) for value in np.mean(found, axis=0))
    return {"queries": len(found), "candidates": candidates, "cut": CUT, "mrr": mrr, "ndcg": ndcg, "recall": recall}


def _of_query(scores: np.ndarray, relevance: np.ndarray, above: float) -> tuple[float, float, float, int]:
    gains = relevance[np.lexsort((relevance, -scores))]
    discounts = 1.0 / np.log2(np.arange(2, len(gains) + 2))
    best = np.sort(gains)[::-1]
    ndcg = (gains * discounts)[:CUT].sum() / (best * discounts)[:CUT].sum()
    first = int(np.flatnonzero(gains > above)[0])
    return 1.0 / (first + 1), float(ndcg), float((gains[:CUT] > above).sum() / (gains > above).sum()), len(gains)
