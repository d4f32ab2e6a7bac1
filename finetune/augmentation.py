"""Random changes of training rows, on whole batches: one affine sample of scale, shift, rotation and mirroring an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SCALE = 0.1
"""Each image is scaled by up to this share, up or down."""
SHIFT = 0.08
"""... and moved by up to this share of its side,"""
ROTATION_DEGREES = 7.0
"""... and turned by up to this angle."""


def augment(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
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
