"""Scores on a scale in training: cross-entropy against grades around the true one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fmx.scores import expected, sums_of

WIDTH = 0.75
"""Of the bell around the true grade, in middling distances between grades."""


def bells(grades: Sequence[float]) -> Tensor:
    """Give for each true grade the target over all of them, a normal distribution around it: float32 [grades, grades], rows summing to 1.

    A histogram loss (Imani and White 2018, arXiv:1806.04613) with the width of Farebrother et al. 2024 (arXiv:2403.03950).
    """
    at = torch.tensor(grades, dtype=torch.float64)
    width = WIDTH * float(np.median(np.diff(grades)))
    heights = torch.exp(-0.5 * ((at[None] - at[:, None]) / width) ** 2)
    return (heights / heights.sum(dim=1, keepdim=True)).float()


def scores_loss(loss: Callable[[Tensor, Tensor], Tensor], grades: Sequence[float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Give a classification loss that takes grades, int64 [n], and sets a bell around each in their place."""
    targets = bells(grades)
    return lambda logits, wanted: loss(logits, targets.to(wanted.device)[wanted])


def summed_scores(logits: Tensor, targets: Tensor, grades: Sequence[float]) -> np.ndarray:
    """Sum what the correlation of expected scores and true grades is made of (`fmx.scores.sums_of`), both from the middle of the scale: float64 [6].

    Args:
        logits: [n, grades].
        targets: int64 [n].
        grades: rising.
    """
    centred = np.array(grades) - (grades[0] + grades[-1]) / 2
    said = expected(logits.double().softmax(dim=1).cpu().numpy(), centred.tolist())
    return np.asarray(sums_of(said, centred[targets.cpu().numpy()]).sum(axis=0))
