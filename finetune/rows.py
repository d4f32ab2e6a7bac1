"""From raw rows to what a network's body takes, on the device: images are normalised, texts are cut to the longest of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fmx.contract import ImageInput, TextInput
from fmx.texts import STEP, order_by_length, padded_length


class ImageRows(nn.Module):
    """uint8 [n, h, w, 3] to normalised float32 [n, 3, h, w]."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ImageInput) -> None:
        super().__init__()
        self.size = spec.height, spec.width
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise, in channels-last memory, which is what the rows already are."""
        return self.normalised(rows.permute(0, 3, 1, 2).float())

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalise float [n, 3, h, w] on 0..255."""
        return (pixels - self.mean) / self.std

    def pixels(self, images: Tensor) -> Tensor:
        """Undo the normalisation: float [n, 3, h, w] on 0..255."""
        return images * self.std + self.mean

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Give the order in which many rows run fastest: any, int64 [n]."""
        return np.arange(len(rows))

    def example(self) -> Tensor:
        """Give two black rows as a body takes them; an example of one row would be taken for a fixed batch (pytorch#148886)."""
        return torch.zeros(2, 3, *self.size)


class TextRows(nn.Module):
    """int32 [n, max_length] to int64 [n, length], the longest of the batch rounded up to a multiple of 8."""

    def __init__(self, spec: TextInput) -> None:
        super().__init__()
        self._spec = spec

    def forward(self, rows: Tensor) -> Tensor:
        """Cut what is padding in every row."""
        used = (rows != self._spec.pad_id).any(dim=0).nonzero()
        longest = int(used[-1]) + 1 if len(used) else 1
        return rows[:, : padded_length(longest, rows.shape[1])].long()

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Give the order in which many rows run fastest: the short ones first, int64 [n]."""
        return order_by_length(rows, self._spec.pad_id)

    def example(self) -> Tensor:
        """Give two rows of different lengths as a body takes them."""
        ids = torch.full((2, 2 * STEP), (self._spec.pad_id + 1) % self._spec.vocabulary)
        ids[1, STEP:] = self._spec.pad_id
        return ids


def rows_of(spec: ImageInput | TextInput) -> ImageRows | TextRows:
    """Give what prepares rows of an input contract."""
    return ImageRows(spec) if isinstance(spec, ImageInput) else TextRows(spec)
