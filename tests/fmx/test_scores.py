"""Scores on a scale: grades, what is expected of them, correlations, reading them, and the loss that is learnt by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from finetune.tasks.scores import bells, scores_loss, summed_scores
from fmx.data import open_source
from fmx.data.check import check_texts
from fmx.data.source import Item
from fmx.errors import DataError
from fmx.evaluation import drop_of_scores
from fmx.ranking import scored_ranking_of
from fmx.scores import choose_grades, correlation_of, expected, grades_of, nearest, pearson, score_measures, spearman
from tests.texts import make_pairs, make_scored, write_pairs

TASK = "text-scores"


def test_grades_lie_evenly_over_the_range() -> None:
    assert choose_grades(np.linspace(0, 5, 500), "here") == ("0", "0.5", "1", "1.5", "2", "2.5", "3", "3.5", "4", "4.5", "5")


def test_grade_without_rows_is_left_out_and_few_rows_make_few_grades() -> None:
    assert choose_grades(np.repeat([-1.0, 0.0, 4.0, 9.0], 30), "here") == ("-1", "0", "4", "9")
    assert len(choose_grades(np.linspace(0, 1, 15), "here")) == 3


@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5], [0, 1, 2, 3], [0, 0.25, 0.5, 0.75, 1], [1, 2, 3, 4, 5, 6, 7], [-2, 7], [0.1, 0.3, 0.5]])
@pytest.mark.parametrize("rare", [1, 20])
def test_few_different_scores_are_grades_themselves(values: list[float], rare: int) -> None:
    """Evenly laid grades made 1.8 of a 2 of five stars, and lost what was rare."""
    scores = np.repeat(values, [90, *[20] * (len(values) - 2), rare]) + 0.1 - 0.1
    assert choose_grades(scores, "here") == tuple(f"{value:g}" for value in values)


def test_grades_follow_the_rows_where_scores_lie_unevenly() -> None:
    grades = grades_of(choose_grades(np.append(np.linspace(0, 1, 400), 1e9), "here"))
    assert len(grades) == 11
    assert max(grades) <= 1.0
    skewed = np.random.default_rng(0).lognormal(0, 1.5, 1000)
    held = np.bincount(nearest(skewed, grades_of(choose_grades(skewed, "here"))))
    assert held.max() < 300


@pytest.mark.parametrize("scores", [1e6 + np.linspace(0, 0.1, 120), 2023 + np.linspace(0.001, 0.009, 120), np.linspace(0, 1e-6, 120)])
def test_grades_have_as_many_digits_as_tell_them_apart(scores: np.ndarray) -> None:
    names = choose_grades(scores, "here")
    grades = np.array(grades_of(names))
    assert len(set(names)) == len(grades) == 11
    assert np.isfinite(bells(grades.tolist()).numpy()).all()
    said = grades[nearest(scores, grades)]
    assert pearson(said, scores) > 0.98
    assert spearman(said, scores) > 0.98


@pytest.mark.parametrize(("values", "said"), [(np.ones(50), "only the score 1"), (np.arange(6.0), "6 training rows")])
def test_what_cannot_be_graded_is_told(values: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        choose_grades(values, "here")


@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=10, max_size=200))
def test_grades_rise_and_hold_any_scores(values: list[float]) -> None:
    scores = np.array(values)
    if scores.min() == scores.max():
        return
    grades = grades_of(choose_grades(scores, "here"))
    assert len(grades) >= 2
    assert list(grades) == sorted(set(grades))
    places = nearest(scores, grades)
    assert (np.abs(np.array(grades)[places] - scores) <= np.abs(np.array(grades)[:, None] - scores).min(axis=0) + 1e-9).all()


def test_score_is_the_mean_of_grades_under_their_probabilities() -> None:
    assert expected(np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], np.float32), (0.0, 1.0, 4.0)).tolist() == [0.5, 4.0]


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-100, 100)), min_size=3, max_size=60))
def test_correlations_are_scipys(pairs: list[tuple[int, float]]) -> None:
    said, wanted = np.array(pairs, np.float64).T
    if said.std() < 1e-3 or wanted.std() < 1e-3:
        return
    assert pearson(said, wanted) == pytest.approx(stats.pearsonr(said, wanted)[0], abs=1e-6)
    assert spearman(said, wanted) == pytest.approx(stats.spearmanr(said, wanted)[0], abs=1e-6)


def test_correlation_with_what_is_always_the_same_is_none() -> None:
    assert pearson(np.zeros(9), np.arange(9.0)) == 0.0
    assert pearson(np.arange(9.0), np.full(9, 3.0)) == 0.0


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e90])
def test_correlation_does_not_depend_on_the_unit(unit: float) -> None:
    random = np.random.default_rng(0)
    wanted = random.uniform(0, 5, 200)
    said = wanted + random.normal(0, 1, 200)
    assert pearson(unit * said, unit * wanted) == pytest.approx(pearson(said, wanted))
    assert drop_of_scores(unit * wanted, unit * said, unit * wanted) == pytest.approx(drop_of_scores(wanted, said, wanted))


def test_correlation_far_from_zero_keeps_its_digits() -> None:
    wanted = np.random.default_rng(0).normal(1e8, 1.0, 500)
    assert pearson(2 * wanted + 1, wanted) == pytest.approx(1.0, abs=1e-6)


def test_errors_are_in_the_scores_unit() -> None:
    measured = score_measures(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0]))
    assert measured["mean_absolute_error"] == 1.0
    assert measured["root_mean_squared_error"] == pytest.approx(3**0.5)
    assert measured["rows"] == 3


def test_drop_is_in_points_of_correlation_with_an_interval_around_it() -> None:
    random = np.random.default_rng(0)
    wanted = random.uniform(0, 5, 400)
    before, after = wanted + random.normal(0, 0.5, 400), wanted + random.normal(0, 1.5, 400)
    drop, low, high = drop_of_scores(before, after, wanted)
    assert drop == pytest.approx(100 * (pearson(before, wanted) - pearson(after, wanted)))
    assert low < drop < high
    assert low > 0
    assert drop_of_scores(before, before, wanted) == (0.0, 0.0, 0.0)


def test_bells_are_distributions_around_their_grade() -> None:
    grades = (0.0, 1.0, 2.0, 3.0)
    found = bells(grades)
    assert torch.allclose(found.sum(dim=1), torch.ones(4))
    assert found.argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert found[1, 0] == pytest.approx(float(found[1, 2]))


def test_loss_is_less_for_a_nearer_grade() -> None:
    loss = scores_loss(torch.nn.functional.cross_entropy, (0.0, 1.0, 2.0, 3.0))
    logits = 6.0 * torch.eye(4)
    losses = [float(loss(logits[i : i + 1], torch.tensor([0]))) for i in range(4)]
    assert losses == sorted(losses)


def test_sums_of_parts_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    logits, targets, grades = torch.randn(40, 3), torch.randint(3, (40,)), (0.0, 2.5, 5.0)
    whole = summed_scores(logits, targets, grades)
    parts = sum(summed_scores(logits[i : i + 8], targets[i : i + 8], grades) for i in range(0, 40, 8))
    assert np.allclose(parts, whole)
    said = expected(logits.softmax(dim=1).numpy(), grades)
    assert float(correlation_of(whole)) == pytest.approx(pearson(said, np.array(grades)[targets.numpy()]), abs=1e-5)


def test_scores_are_read_and_kept_beside_their_grade(tmp_path: Path) -> None:
    rows = make_scored(80)
    source = open_source(str(write_pairs(tmp_path / "rows.csv", rows)), task=TASK)
    grades = grades_of(source.labels)
    items = [item for split in source.splits.values() for item in split]
    assert sorted(item.score for item in items if item.score is not None) == sorted(float(row[3]) for row in rows)
    assert all(item.label == nearest(np.array([item.score]), grades)[0] for item in items)
    assert any("learnt as" in note for note in source.notes)


@pytest.mark.parametrize(
    "given", [3, 3.25, "3.25", " 3.25 ", "-1e-1", 10 / 3, 0.1 + 0.2, "2.33333333333333333333", 12345678901234567890, 3.5999999046325684]
)
def test_numbers_are_scores_however_they_are_written(tmp_path: Path, given: object) -> None:
    rows = [{"text1": f"a {n}", "text2": f"b {n}", "score": given if n == 0 else n / 4} for n in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {item.score for split in open_source(str(path), task=TASK).splits.values() for item in split}
    assert float(str(given)) in scores


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("high", "no number but 'high'"),
        ("nan", "no label"),
        ("inf", "no number"),
        ("3,5", "no number"),
        (True, "no number"),
        ([3], "no string or number"),
        ("1e999", "too large"),
        ("", "no label"),
    ],
)
def test_what_is_no_number_is_told_with_its_row(tmp_path: Path, given: object, said: str) -> None:
    rows = [{"text1": f"a {n}", "text2": f"b {n}", "score": given if n == 7 else n / 4} for n in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=said) as caught:
        open_source(str(path), task=TASK)
    assert "line 8" in caught.value.message


@pytest.mark.parametrize("digits", [2, 17])
def test_scores_that_are_taken_for_classes_are_told_what_to_add(tmp_path: Path, digits: int) -> None:
    rows = [(query, question, answer, f"{float(score) / 3:.{digits}f}") for query, question, answer, score in make_scored(200)]
    path = write_pairs(tmp_path / "rows.csv", rows)
    with pytest.raises(DataError, match="different numbers") as caught:
        open_source(str(path), task="text-pair")
    assert "--scores" in caught.value.hint
    open_source(str(write_pairs(tmp_path / "classes.csv", make_pairs(40))), task="text-pair")


def test_missing_splits_have_low_middling_and_high_scores(tmp_path: Path) -> None:
    """Dealt as they came, a split could be of one score, and any answer as good as any other."""
    rows = [(f"q{n}", f"a {n}", f"b {n}", "0" if n % 10 else "5") for n in range(100)]
    for seed in range(5):
        source = open_source(str(write_pairs(tmp_path / "rows.csv", rows)), seed, task=TASK)
        assert all({item.score for item in items} == {0.0, 5.0} for items in source.splits.values())


def test_held_out_rows_of_one_score_are_refused(tmp_path: Path) -> None:
    rows = [
        {"text1": f"a {n}", "text2": f"b {n}", "score": n % 5 if n < 40 else 3, "split": "train" if n < 30 else "validation" if n < 40 else "test"}
        for n in range(50)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="have the score 3"):
        open_source(str(path), task=TASK)


def test_rows_that_are_only_measured_need_no_grades_of_their_own(tmp_path: Path) -> None:
    rows = [
        {"text1": f"a {n}", "text2": f"b {n}", "score": n / 10, "split": "train" if n < 4 else "validation" if n < 8 else "test"} for n in range(60)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(path), task=TASK, labels_of_model=("0", "2.5", "5"))
    assert source.labels == ("0", "2.5", "5")
    assert [item.label for item in source.splits["test"]] == nearest(np.arange(8, 60) / 10, (0.0, 2.5, 5.0)).tolist()


def test_pair_that_two_people_score_otherwise_is_no_conflict_of_labels(tmp_path: Path) -> None:
    """Scores on either side of a grade's border stopped the training."""
    rows = [{"text1": f"a {n // 2}", "text2": f"b {n // 2}", "score": (n // 2) % 6 + (0.1 if n % 2 else 0)} for n in range(120)]
    rows += [{"text1": "far", "text2": "apart", "score": score} for score in (0.5, 4.5)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(path), task=TASK)
    checked = check_texts(source, noun="pair")
    assert not checked.errors
    (apart,) = [one for one in checked.findings if one.kind == "scores-apart"]
    assert apart.count == 1
    assert "(0.5)" in apart.examples[0]


def test_ranking_by_scores_gains_by_their_height() -> None:
    class Rows:
        grades = (0.0, 5.0)
        scores = np.array([5.0, 3.0, 2.0, 1.0, 0.0])
        items = [Item("row", 0, lambda: b"", query="q")] * 5

    best = scored_ranking_of(np.array([5, 4, 3, 2, 1.0]), Rows())  # type: ignore[arg-type]
    worst = scored_ranking_of(np.array([1, 2, 3, 4, 5.0]), Rows())  # type: ignore[arg-type]
    assert best is not None
    assert worst is not None
    assert (best["mrr"], best["ndcg"]) == (1.0, pytest.approx(1.0))
    assert worst["mrr"] == 0.25  # three of the lower half stand before the first of the upper
    assert worst["ndcg"] < 0.75
