"""scikit-learn's 1,797 real 8 x 8 handwritten digits, as PNG bytes: the data of `fmx train` without arguments."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from fmx.data.source import HELD_OUT, Item, Source, split_items
from fmx.errors import missing_extra


def open_digits(seed: int) -> Source:
    """Open the digits: 1,078 train, 359 validation, 360 test or close to it. Raises: `SurroundingsError` without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("samples", "The digits") from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)
    items = [Item(f"digit-{index:04d}", int(label), functools.partial(_png, pixels[index])) for index, label in enumerate(digits.target)]
    labels = tuple(str(name) for name in digits.target_names)
    splits = split_items(items, len(labels), seed, {"validation": HELD_OUT, "test": HELD_OUT})
    return Source("digits", labels, splits, suggested_size=64, may_flip=False)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
