"""Scores on a scale in training: cross-entropy against grades around the true one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fmx.scores import expected, sums_of

WIDTH = 0.75
"""Of the bell around a grade, in the distance of the grades beside it (Farebrother et al. 2024, arXiv:2403.03950)."""
WIDTH_AT_ENDS = 0.4
"""Half a bell has its mean inside the scale, by 0.3 of a grade with the other width and 0.04 with this one."""


def bells(grades: Sequence[float]) -> Tensor:
    """Give for each true grade the target over all of them, a normal distribution around it: float32 [grades, grades], rows summing to 1.

    This makes cross-entropy a histogram loss (Imani and White 2018, arXiv:1806.04613): an answer costs less the nearer it is.
    """
    at = torch.tensor(grades, dtype=torch.float64)
    gaps = at.diff()
    beside = torch.cat([gaps[:1], (gaps[1:] + gaps[:-1]) / 2, gaps[-1:]])
    widths = WIDTH * beside
    widths[[0, -1]] = WIDTH_AT_ENDS * beside[[0, -1]]
    heights = torch.exp(-0.5 * ((at[None] - at[:, None]) / widths[:, None]) ** 2)
    return (heights / heights.sum(dim=1, keepdim=True)).float()


def scores_loss(loss: Callable[[Tensor, Tensor], Tensor], grades: Sequence[float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Give a classification loss that takes grades, int64 [n], and sets a bell around each in their place."""
    targets = bells(grades)
    return lambda logits, wanted: loss(logits, targets.to(wanted.device)[wanted])


def summed_scores(logits: Tensor, targets: Tensor, grades: Sequence[float]) -> np.ndarray:
    """Sum what the correlation of expected scores and true grades is made of (`fmx.scores.sums_of`): float64 [6].

    Both are counted from the middle of the scale, and in parts of it.

    Args:
        logits: [n, grades].
        targets: int64 [n].
        grades: rising.
    """
    centred = (np.array(grades) - (grades[0] + grades[-1]) / 2) / (grades[-1] - grades[0])
    said = expected(logits.double().softmax(dim=1).cpu().numpy(), centred.tolist())
    return np.asarray(sums_of(said, centred[targets.cpu().numpy()]).sum(axis=0))
