"""Image classification: an image file in, its labels with scores out."""

from __future__ import annotations

from fmx.contract import ImageInput
from fmx.images import ImageReader
from fmx.task_names import IMAGES
from fmx.tasks.task import Task


class ImageClassification(Task):
    """Rows are uint8 [height, width, 3]; outputs are probabilities float32 [classes]."""

    name = IMAGES
    input_name = "images"
    content_types = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")
    tensor = "images"
    noun = "image"
    large_bytes = 2_000_000

    def __init__(self, labels: tuple[str, ...], spec: ImageInput) -> None:
        super().__init__(labels, ImageReader(spec), spec)
