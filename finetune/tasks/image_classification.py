"""Image classification in training: cross-entropy, and the measures of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from fmx import statistics


def smoothed_cross_entropy(label_smoothing: float) -> Any:
    """Return the training loss (label smoothing: Szegedy et al. 2016, arXiv:1512.00567)."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return loss


def measure(probabilities: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Give what run.json and the report say about held-out rows.

    Args:
        probabilities: float [n, classes].
        labels: int64 [n].
        names: the classes.
    """
    matrix = statistics.confusion_matrix(probabilities.argmax(axis=1), labels, len(names))
    top5 = statistics.wilson_interval(int((np.argsort(-probabilities, axis=1)[:, :5] == labels[:, None]).any(axis=1).sum()), len(labels))
    return {
        "accuracy": statistics.accuracy_of(probabilities, labels).model_dump(),
        **({"top5_accuracy": top5.model_dump()} if len(names) > 10 else {}),
        "macro_f1": statistics.macro_f1(matrix),
        "calibration_error": statistics.calibration_error(probabilities, labels),
        "classes": statistics.class_table(matrix, names),
        "confusion": matrix.tolist(),
    }
