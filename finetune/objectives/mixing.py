"""Mixed rows: mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899), as torchvision has them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mixing(mixup: float, cutmix: float, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return what mixes a batch (images, labels int64 [n]) into (images, float [n, classes]), or None when both alphas are 0.

    With both, one of them is drawn for each batch.
    """
    if not mixup and not cutmix:
        return None
    from torchvision.transforms import v2

    kinds = [kind(alpha=alpha, num_classes=classes) for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha > 0]

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kind = kinds[int(torch.randint(len(kinds), ()))]
        mixed, targets = kind(images, labels)
        return mixed, targets

    return mix
