"""Candidates put in order, beside scikit-learn's measures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from fmx.ranking import CUT, ranking_measures, relevance_of, score_of


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("0", "1"), [0.0, 1.0]),
        (("1", "2"), [0.0, 1.0]),
        (("0", "1", "2", "4"), [0.0, 0.25, 0.5, 1.0]),
        (("no", "Yes"), [0.0, 1.0]),
        (("relevant", "irrelevant"), [1.0, 0.0]),
        (("entailment", "neutral", "contradiction"), None),
        (("yes", "true"), None),
        (("good", "bad"), None),
        (("0.5", "1"), None),
        (("3",), None),
    ],
)
def test_labels_tell_how_relevant_they_are(labels: tuple[str, ...], expected: list[float] | None) -> None:
    found = relevance_of(labels)
    assert (found is None) if expected is None else (found is not None and found.tolist() == expected)


def test_score_is_the_relevance_to_expect() -> None:
    relevance = np.array([0.0, 0.5, 1.0])
    assert score_of(np.array([0.2, 0.2, 0.6]), relevance) == pytest.approx(0.7)
    assert score_of(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0000001]]), relevance).tolist() == [0.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, width=32)), min_size=2, max_size=30, unique_by=lambda pair: pair[1]))
def test_ndcg_is_scikit_learns(pairs: list[tuple[int, float]]) -> None:
    relevance, scores = (np.array(values, dtype=np.float64) for values in zip(*pairs, strict=True))
    found = ranking_measures(scores, relevance, ["q"] * len(scores))
    if not relevance.any():
        assert found is None
        return
    assert found is not None
    assert found["ndcg"] == pytest.approx(ndcg_score([relevance], [scores], k=CUT))


def test_reciprocal_rank_of_one_relevant_candidate_is_average_precision() -> None:
    random = np.random.default_rng(0)
    scores, truth = random.random((20, 12)), np.eye(12)[random.integers(0, 12, 20)]
    queries = [f"q{row}" for row in range(20) for _ in range(12)]
    found = ranking_measures(scores.reshape(-1), truth.reshape(-1), queries)
    assert found is not None
    assert found["mrr"] == pytest.approx(label_ranking_average_precision_score(truth, scores))
    places = (-scores).argsort(axis=1).argsort(axis=1)[truth.astype(bool)]
    assert found["recall"] == pytest.approx(np.mean(places < CUT))
    assert (found["queries"], found["candidates"]) == (20, 12.0)


def test_scores_that_say_nothing_rank_nothing_first() -> None:
    found = ranking_measures(np.full(4, 0.5), np.array([1.0, 0.0, 0.0, 0.0]), ["q"] * 4)
    assert found is not None
    assert found["mrr"] == 0.25


def test_rows_without_a_query_and_queries_without_an_answer_are_left_out() -> None:
    scores, relevance = np.array([0.9, 0.1, 0.4, 0.3]), np.array([1.0, 0.0, 0.0, 1.0])
    found = ranking_measures(scores, relevance, ["a", "a", "b", None])
    assert found is not None
    assert (found["queries"], found["mrr"]) == (1, 1.0)
    assert ranking_measures(scores, relevance, [None] * 4) is None
