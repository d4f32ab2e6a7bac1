"""Image classification in training: cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def classification_loss(label_smoothing: float, weights: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the training loss: mean cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567).

    Args:
        label_smoothing: share of the target that is spread over all classes.
        weights: float [classes], of a row by its class; None is 1 for all. Taken in before the mean over all rows of the batch, so that
            the parts of an accumulated batch add up to the whole.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        if weights is None:
            return functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
        losses = functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing, reduction="none")
        shares = weights[targets] if targets.ndim == 1 else targets @ weights
        return (losses * shares).mean()

    return loss


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weigh classes by the inverse of their frequency, so that the mean weight of a row is 1: float32 [classes]."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1).float()
    return len(labels) / (classes * counts)
