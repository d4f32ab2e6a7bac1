"""Image classification: an image file in, its labels with scores out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.contract import ImageInput
from fmx.images import MAX_PIXELS, measured_row
from fmx.tasks.decoded import Decoded


class ImageClassification:
    """Rows are uint8 [height, width, 3]; outputs are probabilities float32 [classes]."""

    name = "image-classification"
    input_name = "images"
    content_types = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")

    def __init__(self, labels: tuple[str, ...], spec: ImageInput) -> None:
        self.labels = labels
        self.spec = spec

    def decode(self, data: bytes, max_pixels: int = MAX_PIXELS) -> Decoded:
        """Turn one input's bytes into one row, and note its size. Raises: `InputError`."""
        row, pixels = measured_row(data, self.spec, max_pixels)
        return Decoded(row, {"size": math.log2(pixels) / 2})

    def row(self, data: bytes) -> np.ndarray:
        """Turn one input's bytes into one row: uint8 [height, width, 3]. Raises: `InputError`."""
        return self.decode(data).values

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Shape of one row: (height, width, 3)."""
        return self.spec.height, self.spec.width, 3

    def prediction(self, probabilities: np.ndarray, top_k: int) -> dict[str, Any]:
        """Turn one row's probabilities, float [classes], into `{"labels": [{"label", "score"}]}`, best first."""
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return {"labels": [{"label": self.labels[i], "score": float(probabilities[i])} for i in order]}
