"""Random changes of training rows. `light` is one affine sample on the device for a whole batch; the others are torchvision's, row by row.

Texts lose tokens at random (word dropout, Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods for Text Classification").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fmx.contract import TextInput
from fmx.errors import UsageError

SCALE = 0.1
"""Each image is scaled by up to this share, up or down."""
SHIFT = 0.08
"""... and moved by up to this share of its side,"""
ROTATION_DEGREES = 7.0
"""... and turned by up to this angle."""

Normalise = Callable[[Tensor], Tensor]
Augment = Callable[[Tensor, Normalise, torch.device, torch.Generator], Tensor]
"""Takes rows uint8 [n, h, w, 3] on the host and gives normalised float [n, 3, h, w] on the device."""


def augmentation(kind: str, *, may_flip: bool) -> Augment:
    """Return the augmentation of a setting: `light`, `trivial`, `rand` or `none`."""
    if kind == "none":
        return lambda rows, normalise, device, generator: normalise(rows.to(device, non_blocking=True))
    if kind == "light":

        def light(rows: Tensor, normalise: Normalise, device: torch.device, generator: torch.Generator) -> Tensor:
            images = normalise(rows.to(device, non_blocking=True))
            return affine(images, generator, flip=may_flip).contiguous(memory_format=torch.channels_last)

        return light
    return _by_rows(_policy(kind, may_flip))


def token_dropout(spec: TextInput, share: float) -> Augment:
    """Return the augmentation of texts: each token but the first and the last becomes the unknown one with this probability.

    Args:
        spec: of the rows, int32 [n, max_length].
        share: 0 changes nothing.

    Raises:
        UsageError: the tokenizer has no token for what is unknown.
    """
    if share and spec.unknown_id is None:
        raise UsageError("This model's tokenizer has no token for what is unknown, so --token-dropout has nothing to put in.", hint="Leave it out.")

    def drop(rows: Tensor, prepare: Normalise, device: torch.device, generator: torch.Generator) -> Tensor:
        if share and spec.unknown_id is not None:
            is_inside = rows != spec.pad_id
            last = is_inside.sum(dim=1, keepdim=True) - 1
            places = torch.arange(rows.shape[1])
            is_inside = (places > 0) & (places < last)
            rows = torch.where(is_inside & (torch.rand(rows.shape, generator=generator) < share), spec.unknown_id, rows)
        return prepare(rows.to(device, non_blocking=True))

    return drop


def _policy(kind: str, may_flip: bool) -> Callable[[Tensor], Tensor]:
    """TrivialAugment (Müller & Hutter 2021, arXiv:2103.10158) and RandAugment (Cubuk et al. 2019, arXiv:1909.13719), as torchvision has them."""
    from torchvision.transforms import v2

    policy: list[Any] = [v2.TrivialAugmentWide() if kind == "trivial" else v2.RandAugment()]
    return v2.Compose([v2.RandomHorizontalFlip(), *policy] if may_flip else policy)  # type: ignore[no-any-return]


def _by_rows(policy: Callable[[Tensor], Tensor]) -> Augment:
    """Torchvision's policies draw from torch's own random state, which the loop seeds an epoch and a checkpoint keeps."""

    def change(rows: Tensor, normalise: Normalise, device: torch.device, generator: torch.Generator) -> Tensor:
        changed = torch.stack([policy(row) for row in rows.permute(0, 3, 1, 2)])
        return normalise(changed.permute(0, 2, 3, 1).to(device, non_blocking=True))

    return change


def affine(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Resample a batch through random affine maps; what comes into view repeats the border.

    Args:
        images: float [n, 3, height, width], normalised.
        generator: a CPU generator; the same state gives the same change on every device.
        flip: mirror half of the images left to right.
    """
    n = len(images)

    def uniform(spread: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * spread

    angle, scale = uniform(math.radians(ROTATION_DEGREES)), 1 + uniform(SCALE)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift_x, shift_y = uniform(2 * SHIFT), uniform(2 * SHIFT)
    top = torch.stack([cosine * mirror, -sine, shift_x], dim=1)
    bottom = torch.stack([sine * mirror, cosine, shift_y], dim=1)
    maps = torch.stack([top, bottom], dim=1).to(images.device)  # [n, 2, 3]
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
