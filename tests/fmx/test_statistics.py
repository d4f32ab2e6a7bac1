from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from fmx import statistics


def test_wilson_interval_has_the_textbook_value() -> None:
    interval = statistics.wilson_interval(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_interval_holds_its_value(correct: int, n: int) -> None:
    interval = statistics.wilson_interval(min(correct, n), n)
    assert 0.0 <= interval.low <= interval.value + 1e-12
    assert interval.value <= interval.high + 1e-12 <= 1.0 + 1e-9


def test_class_table_and_macro_f1_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    matrix = statistics.confusion_matrix(predicted, labels, 4)
    assert matrix.tolist() == metrics.confusion_matrix(labels, predicted).tolist()
    assert statistics.macro_f1(matrix) == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    recalls = [row["recall"] for row in statistics.class_table(matrix, ("a", "b", "c", "d"))]
    assert recalls == pytest.approx(metrics.recall_score(labels, predicted, average=None).tolist())


def test_calibration_error_of_a_liar_is_its_gap() -> None:
    probabilities = np.tile([0.9, 0.1], (100, 1))
    labels = np.array([0] * 50 + [1] * 50)
    assert statistics.calibration_error(probabilities, labels) == pytest.approx(0.4)


def test_softmax_rows_sum_to_one_for_extreme_logits() -> None:
    given_logits = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype=np.float32)
    assert statistics.softmax(given_logits).sum(axis=1) == pytest.approx([1.0, 1.0])
