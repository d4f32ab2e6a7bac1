"""Scores on a scale, answered through grades: which grades, what is expected of probabilities over them, and how well that goes with the truth.

A network tells grades apart as it does classes, and its answer is the mean of them under its probabilities. Learning a number as a distribution
over a grid is at least as good as by squared error (Imani and White 2018, arXiv:1806.04613).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fmx.errors import DataError

MOST_GRADES = 11
ROWS_A_GRADE = 5
"""Fewer do not make a grade: its rows count to the next one."""
LARGEST_SHARE = 0.5
"""Of rows that one of evenly spaced grades may hold; else grades go by quantiles."""


def choose_grades(values: np.ndarray, where: str) -> tuple[str, ...]:
    """Choose grades for training scores, float [n].

    Up to `MOST_GRADES` different scores are grades themselves. Of more, grades lie evenly over their range, where rows are, or at their
    quantiles where one of them would hold most rows.

    Returns:
        Two numbers or more, as text, rising, with as many digits as tell them apart.

    Raises:
        DataError: too few rows, or all of one score.
    """
    if len(values) < 2 * ROWS_A_GRADE or values.min() == values.max():
        what = f"only the score {values[0]:g}" if len(values) and values.min() == values.max() else f"{len(values)} training rows"
        raise DataError(f"{where} holds {what}.", hint=f"Scores are learnt from {2 * ROWS_A_GRADE} rows or more, of different scores.")
    chosen = np.unique([float(f"{value:.12g}") for value in values])  # 0.1 + 0.2 is 0.3
    if len(chosen) > MOST_GRADES:
        count = min(MOST_GRADES, max(2, len(values) // ROWS_A_GRADE))
        even = np.linspace(values.min(), values.max(), count)
        held = np.bincount(nearest(values, even), minlength=count)
        if held.max() <= max(LARGEST_SHARE, 1.5 / count) * len(values):
            chosen = even[held >= ROWS_A_GRADE / 2]  # the first and the last take in half of what the others do
        else:
            chosen = np.unique(np.quantile(values, (np.arange(count) + 0.5) / count))
    return _names(chosen if len(chosen) > 1 else np.array([values.min(), values.max()]))


def _names(grades: np.ndarray) -> tuple[str, ...]:
    """Write grades, of which none are the same, with as few digits as tell them apart, but 6 of them at most where that does."""
    for digits in (6, 9, 12, 15, 17):
        names = tuple(f"{value + 0.0:.{digits}g}" for value in grades)
        if len({float(name) for name in names}) == len(grades):
            return names
    raise DataError(f"The scores {grades[0]!r} and {grades[1]!r} cannot be told apart.", hint="Scale them, such as to 0 to 1.")  # no such floats


def grades_of(labels: Sequence[str]) -> tuple[float, ...]:
    """Read the grades back from their names."""
    return tuple(map(float, labels))


def nearest(values: np.ndarray, grades: Sequence[float] | np.ndarray) -> np.ndarray:
    """Give the place of the nearest grade, the lower of two: float [n] to int64 [n]. Grades rise."""
    at = np.asarray(grades)
    return np.searchsorted((at[1:] + at[:-1]) / 2, values, side="left").astype(np.int64)


def expected(probabilities: np.ndarray, grades: Sequence[float]) -> np.ndarray:
    """Give the score to expect: float [..., grades] to float64 [...]."""
    return np.asarray(probabilities.astype(np.float64) @ np.array(grades))


def sums_of(said: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Give what a correlation is made of, row by row, to be summed: float [n] each to float64 [n, 6]."""
    return np.stack([np.ones(len(said)), said, wanted, said * said, wanted * wanted, said * wanted], axis=1).astype(np.float64)


def correlation_of(sums: np.ndarray) -> np.ndarray:
    """Give Pearson's correlation out of sums, float64 [..., 6] to [...]; 0 where one side is always the same."""
    n, said, wanted, said_said, wanted_wanted, said_wanted = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    n = np.maximum(1.0, n)
    covariance = said_wanted / n - said * wanted / n**2
    variances = (said_said / n - (said / n) ** 2) * (wanted_wanted / n - (wanted / n) ** 2)
    scale = np.sqrt(np.maximum(0.0, variances))
    found = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-12)
    return np.asarray(found.clip(-1.0, 1.0))


def pearson(said: np.ndarray, wanted: np.ndarray) -> float:
    """Give Pearson's correlation of float [n] each."""
    return float(correlation_of(sums_of(_scaled(said), _scaled(wanted)).sum(axis=0)))


def _scaled(values: np.ndarray) -> np.ndarray:
    """Move values to around 0 and to within 1 of it: squares of large ones, or of what is far from 0 beside its spread, lose digits."""
    centred = values - np.mean(values)
    return np.asarray(centred / (np.abs(centred).max(initial=0.0) or 1.0))


def spearman(said: np.ndarray, wanted: np.ndarray) -> float:
    """Give Spearman's rank correlation of float [n] each; ties share their mean rank."""
    return pearson(_ranks(said), _ranks(wanted))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[place])


def score_measures(said: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Give what run.json, `fmx eval` and the reports say of scores, float [n] each: two correlations, and two errors in the scores' own unit."""
    errors = said - wanted
    return {
        "pearson": pearson(said, wanted),
        "spearman": spearman(said, wanted),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "root_mean_squared_error": float(np.sqrt((errors**2).mean())),
        "rows": len(said),
    }
