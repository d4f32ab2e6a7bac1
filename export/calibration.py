"""Which training rows calibrate the activation ranges, and how they are fed: in chunks, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnxruntime.quantization import CalibrationDataReader

from export.graph import NORMALISED
from fmx.contract import ImageInput
from fmx.data.rows import Rows
from fmx.progress import Advance

CHUNK = 32


def choose_rows(rows: Rows, count: int, seed: int) -> np.ndarray:
    """Choose `count` rows, the classes in turn (so each has its equal part while it lasts), as a function of the seed.

    Returns:
        int64 [min(count, n)], sorted indices.
    """
    random = np.random.default_rng(seed)
    classes = [random.permutation(np.flatnonzero(rows.labels == label)) for label in np.unique(rows.labels)]
    longest = max(len(index) for index in classes)
    dealt = [int(index[turn]) for turn in range(longest) for index in classes if turn < len(index)]
    return np.sort(np.array(dealt[:count], dtype=np.int64))


def normalised(images: np.ndarray, spec: ImageInput) -> np.ndarray:
    """Normalise rows as the graph does: uint8 [n, h, w, 3] to float32 [n, 3, h, w]."""
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))


def chunks(images: np.ndarray, spec: ImageInput) -> Iterator[np.ndarray]:
    """Give normalised chunks of at most `CHUNK` rows."""
    for start in range(0, len(images), CHUNK):
        yield normalised(images[start : start + CHUNK], spec)


class RowReader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration rows to ONNX Runtime's calibrator."""

    def __init__(self, images: np.ndarray, spec: ImageInput, advance: Advance = lambda count: None) -> None:
        self._chunks = chunks(images, spec)
        self._advance = advance

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Give the next chunk's feed, or None at the end."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return None
        self._advance(len(chunk))
        return {NORMALISED: chunk}
