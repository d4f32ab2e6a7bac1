"""The measures that a run and a package report, in plain numpy: accuracy with its interval, per-class table, confusion matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.contract import Interval

_Z95 = 1.959963984540054


def wilson_interval(correct: int, n: int) -> Interval:
    """Give a share with its 95 % score interval (E. B. Wilson 1927, "Probable inference", JASA 22)."""
    if n == 0:
        return Interval(value=0.0, n=0, low=0.0, high=1.0)
    share = correct / n
    centre = (share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n))
    return Interval(value=share, n=n, low=max(0.0, centre - half), high=min(1.0, centre + half))


def accuracy_of(probabilities: np.ndarray, labels: np.ndarray) -> Interval:
    """Give top-1 accuracy.

    Args:
        probabilities: float [n, classes], or logits.
        labels: int [n].
    """
    return wilson_interval(int((probabilities.argmax(axis=1) == labels).sum()), len(labels))


def paired_drop(reference_right: np.ndarray, right: np.ndarray) -> tuple[float, float, float]:
    """Give how many points of accuracy are lost, and the 95 % interval, from answers to the same rows.

    The interval adds half a row to each of the four kinds of pair (Agresti and Min 2005, "Simple improved confidence intervals for comparing
    matched proportions", Statistics in Medicine 24), so that no difference on few rows is not taken for certainty.

    Args:
        reference_right: bool [n], whether the reference is right.
        right: bool [n], whether the other is.

    Returns:
        (drop, low, high) in percentage points.
    """
    n = len(right)
    lost, won = int((reference_right & ~right).sum()), int((~reference_right & right).sum())
    if n == 0:
        return 0.0, -100.0, 100.0
    b, c, m = lost + 0.5, won + 0.5, n + 2
    centre = (b - c) / m
    half = _Z95 * math.sqrt(max(0.0, (b + c) / m - centre**2) / m)
    return 100.0 * (lost - won) / n, 100.0 * max(-1.0, centre - half), 100.0 * min(1.0, centre + half)


def mcnemar_p(reference_right: np.ndarray, right: np.ndarray) -> float:
    """Give the exact two-sided p-value that both are right equally often (McNemar 1947): bool [n] each."""
    lost, won = int((reference_right & ~right).sum()), int((~reference_right & right).sum())
    n, k = lost + won, min(lost, won)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2.0 * sum(math.exp(value) for value in logs))


def worst_class(reference: np.ndarray, answers: np.ndarray, labels: np.ndarray, classes: int) -> tuple[int, float, int]:
    """Find the class that loses most recall.

    Args:
        reference: int [n], first labels of the reference.
        answers: int [n], first labels of the other.
        labels: int [n].
        classes: how many there are.

    Returns:
        (class, points of recall lost, its rows); class 0 and no rows where there are none.
    """
    rows = np.bincount(labels, minlength=classes)
    before = np.bincount(labels[reference == labels], minlength=classes)
    after = np.bincount(labels[answers == labels], minlength=classes)
    lost = np.divide(100.0 * (before - after), rows, out=np.full(classes, -np.inf), where=rows > 0)
    found = int(lost.argmax())
    return found, float(lost[found]) if rows[found] else 0.0, int(rows[found])


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count rows by true class (axis 0) and predicted class (axis 1): int64 [classes, classes]."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def class_table(matrix: np.ndarray, names: tuple[str, ...]) -> list[dict[str, float | int | str]]:
    """Give precision, recall, F1 and support a class from a confusion matrix; a measure without rows is 0."""
    hits = np.diag(matrix).astype(float)
    predicted, actual = matrix.sum(axis=0), matrix.sum(axis=1)
    precision = np.divide(hits, predicted, out=np.zeros_like(hits), where=predicted > 0)
    recall = np.divide(hits, actual, out=np.zeros_like(hits), where=actual > 0)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(hits), where=total > 0)
    return [
        {"label": name, "precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]), "rows": int(actual[i])}
        for i, name in enumerate(names)
    ]


def macro_f1(matrix: np.ndarray) -> float:
    """Give the unweighted mean of the classes' F1, over classes that have rows or were predicted."""
    names = tuple(str(i) for i in range(len(matrix)))
    present = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    scores = [float(row["f1"]) for row, here in zip(class_table(matrix, names), present, strict=True) if here]
    return float(np.mean(scores)) if scores else 0.0


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Give the expected calibration error (Guo et al. 2017, arXiv:1706.04599): mean |accuracy - confidence| over equal-width bins."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(correct[index == b].mean() - confidence[index == b].mean()) * (index == b).mean() for b in range(bins) if (index == b).any()]
    return float(sum(gaps))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits float [..., classes] into probabilities float64 [..., classes]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature that makes logits say how sure they may be (Guo et al. 2017, arXiv:1706.04599).

    It minimises the cross-entropy of `logits / temperature`. Targets are 1 - 1 / (n + 2) rather than 1, in the manner of Platt 1999, because
    without that a model that makes no mistake on few rows would be called certain of everything.

    Args:
        logits: float [n, classes].
        labels: int [n].

    Returns:
        Between 0.05 and 20; 1 where there are no rows.
    """
    if not len(labels):
        return 1.0
    doubt = 1.0 / (len(labels) + 2)
    classes = logits.shape[1]
    targets = np.full(logits.shape, doubt / max(1, classes - 1))
    targets[np.arange(len(labels)), labels] = 1 - doubt

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float((targets * (np.log(np.exp(scaled).sum(axis=1, keepdims=True)) - scaled)).sum(axis=1).mean())

    low, high, golden = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2
    for _ in range(50):  # golden-section search: the loss has one minimum along the temperature
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if cross_entropy(left) < cross_entropy(right) else (left, high)
    return round(math.exp((low + high) / 2), 6)


def classification_measures(probabilities: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Give what run.json, `fmx eval` and the reports say about labelled rows.

    Args:
        probabilities: float [n, classes].
        labels: int64 [n].
        names: the classes.
    """
    matrix = confusion_matrix(probabilities.argmax(axis=1), labels, len(names))
    top5 = wilson_interval(int((np.argsort(-probabilities, axis=1)[:, :5] == labels[:, None]).any(axis=1).sum()), len(labels))
    return {
        "accuracy": accuracy_of(probabilities, labels).model_dump(),
        **({"top5_accuracy": top5.model_dump()} if len(names) > 10 else {}),
        "macro_f1": macro_f1(matrix),
        "calibration_error": calibration_error(probabilities, labels),
        "classes": class_table(matrix, names),
        "confusion": matrix.tolist(),
    }


def best_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """Find for each label the threshold with the highest F1 on some rows; 0.5 where no row has the label, or none is better.

    Args:
        probabilities: float [n, labels], each by itself.
        labels: int [n, labels], 1 where the label is right.

    Returns:
        Between 0.05 and 0.95, in steps of 0.05: few rows do not tell finer.
    """
    found = []
    for chances, wanted in zip(probabilities.T, labels.T.astype(bool), strict=True):
        scores = {}
        for threshold in sorted(np.arange(0.05, 1.0, 0.05).round(2), key=lambda value: abs(value - 0.5)):  # the first of the best is the middlemost
            said = chances >= threshold
            scores[float(threshold)] = 2 * (said & wanted).sum() / max(1, said.sum() + wanted.sum())
        found.append(max(scores, key=lambda threshold: scores[threshold]) if wanted.any() else 0.5)
    return tuple(found)


def shifted(probabilities: np.ndarray, thresholds: tuple[float, ...]) -> np.ndarray:
    """Move probabilities as a shift of their logits does that makes 0.5 of each threshold: float [n, labels]."""
    at = np.array(thresholds)
    said, unsaid = probabilities * (1 - at), (1 - probabilities) * at
    return np.asarray(said / np.maximum(1e-300, said + unsaid))


def several_measures(said: np.ndarray, wanted: np.ndarray, pairs: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Give what run.json, `fmx eval` and the reports say about rows that may have several labels.

    Args:
        said: bool [n, labels].
        wanted: bool [n, labels].
        pairs: float [n * labels, 2], probabilities that a label is not said, and that it is.
        names: the labels.

    Returns:
        Among others `accuracy`, of rows that are wholly right, and `labels`, over all labels of all rows.
    """
    counts = np.stack([said & wanted, said, wanted], axis=2).sum(axis=0)  # [labels, 3]
    table = [{"label": name, **precision_recall_f1(row), "rows": int(row[2])} for name, row in zip(names, counts, strict=True)]
    sums = counts.sum(axis=0)
    micro = {**precision_recall_f1(sums), "there": int(sums[2]), "said": int(sums[1])}
    present = [precision_recall_f1(row)["f1"] for row in counts if row[1] or row[2]]
    confusion = confusion_matrix(said.reshape(-1).astype(int), wanted.reshape(-1).astype(int), 2)
    return {
        "accuracy": wilson_interval(int((said == wanted).all(axis=1).sum()), len(said)).model_dump(),
        "labels": micro,
        "macro_f1": float(np.mean(present)) if present else 0.0,
        "calibration_error": calibration_error(pairs, wanted.reshape(-1).astype(int)),
        "classes": table,
        "confusion": confusion.tolist(),
        "confusion_names": ["not said", "said"],
    }


def precision_recall_f1(counts: np.ndarray) -> dict[str, float]:
    """Give the three from how many are right, found and there, int [3]; a measure of nothing is 0."""
    right, found, there = (int(value) for value in counts)
    parts = {"precision": (right, found), "recall": (right, there), "f1": (2 * right, found + there)}
    return {name: part / whole if whole else 0.0 for name, (part, whole) in parts.items()}


def as_shares(chances: np.ndarray) -> np.ndarray:
    """Divide probabilities that are each by itself, float [..., labels], by their sum, as if one label were told."""
    return np.asarray(chances / np.maximum(1e-12, chances.sum(axis=-1, keepdims=True)))
