"""Rows of which more than one thing is answered, in training: units of texts, or each of several labels. Cross-entropy of all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor
from torch.nn import functional

from fmx.entities import IGNORED, entity_counts


def answered(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Give the logits and targets of what is to be answered, [m, classes] and int64 [m].

    Args:
        logits: [n, classes], or of tokens [n, length, classes], or of several labels [n, labels, 2].
        targets: int64 [n], or of tokens [n, max_length] with `IGNORED` where a position bears no tag, or [n, labels].
    """
    if targets.ndim == 1 or logits.ndim == 2:
        return logits, targets
    targets = targets[:, : logits.shape[1]]
    is_unit = targets != IGNORED
    return logits[is_unit], targets[is_unit]


def counted_entities(logits: Tensor, targets: Tensor, tags: tuple[str, ...]) -> np.ndarray:
    """Count the entities of rows that are rightly found, found and there: float64 [3].

    Args:
        logits: [n, length, classes].
        targets: int64 [n, max_length], `IGNORED` where a position bears no tag.
        tags: the classes.
    """
    wanted = targets[:, : logits.shape[1]].cpu().numpy()
    said = logits.argmax(dim=2).cpu().numpy()
    rows = [row != IGNORED for row in wanted]
    gold, found = ([row[kept] for row, kept in zip(side, rows, strict=True)] for side in (wanted, said))
    return np.asarray(entity_counts(gold, found, tags).sum(axis=(0, 1)), np.float64)


def units_loss(label_smoothing: float, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the training loss: cross-entropy with label smoothing, summed over the units of a batch, over its rows and the mean units of a row.

    Not over the units of the very batch: the parts of an accumulated batch, and of several processes, would not add up to the whole.

    Args:
        label_smoothing: share of the target that is spread over all tags.
        targets: of all training rows, int64 [n, max_length] or [n, labels].
    """
    units_a_row = max(1.0, float((targets != IGNORED).sum()) / max(1, len(targets)))

    def loss(logits: Tensor, wanted: Tensor) -> Tensor:
        wanted = wanted[:, : logits.shape[1]]
        summed = functional.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), label_smoothing=label_smoothing, reduction="sum", ignore_index=IGNORED
        )
        mean: Tensor = summed / (len(wanted) * units_a_row)
        return mean

    return loss


def counted_labels(logits: Tensor, targets: Tensor) -> np.ndarray:
    """Count the labels that are rightly said, said and there: float64 [3].

    Args:
        logits: [n, labels, 2].
        targets: int64 [n, labels].
    """
    said = logits.argmax(dim=2) == 1
    return np.array([int((said & (targets == 1)).sum()), int(said.sum()), int(targets.sum())], np.float64)
