"""What the epochs of a task are judged by, where that is not accuracy: sums over rows that add up over batches and processes, and their measure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from finetune.tasks.scores import summed_scores
from finetune.tasks.units import counted_entities, counted_labels
from fmx.data.rows import Rows
from fmx.entities import f1_of
from fmx.scores import correlation_of


class Judge(NamedTuple):
    """One measure."""

    sums: Callable[[Tensor, Tensor], np.ndarray]
    """Of a batch's logits and targets: float64 [size]."""
    size: int
    measure: Callable[[np.ndarray], float]
    """Of the sums of all batches: between 0 and 1, or of a correlation between -1 and 1."""


def judge_of(rows: Rows, labels: tuple[str, ...]) -> Judge | None:
    """Give what judges a task's answers; None where that is accuracy."""
    if rows.grades:
        return Judge(partial(summed_scores, grades=rows.grades), 6, lambda sums: float(correlation_of(sums)))
    if rows.has_several:
        return Judge(counted_labels, 3, f1_of)
    return Judge(partial(counted_entities, tags=labels), 3, f1_of) if rows.has_tags else None
