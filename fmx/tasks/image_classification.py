"""Image classification: an image file in, its labels with scores out."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmx.contract import ImageInput
from fmx.images import MAX_PIXELS, image_row


class ImageClassification:
    """Rows are uint8 [height, width, 3]; outputs are probabilities float32 [classes]."""

    name = "image-classification"
    input_name = "images"
    content_types = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")

    def __init__(self, labels: tuple[str, ...], spec: ImageInput) -> None:
        self.labels = labels
        self.spec = spec

    def row(self, data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Turn one input's bytes into one row: uint8 [height, width, 3]. Raises: `InputError`."""
        return image_row(data, self.spec, max_pixels)

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Shape of one row: (height, width, 3)."""
        return self.spec.height, self.spec.width, 3

    def prediction(self, probabilities: np.ndarray, top_k: int) -> dict[str, Any]:
        """Turn one row's probabilities, float [classes], into `{"labels": [{"label", "score"}]}`, best first."""
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return {"labels": [{"label": self.labels[i], "score": float(probabilities[i])} for i in order]}
