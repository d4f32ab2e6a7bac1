"""Which training rows calibrate the activation ranges, and the ranges themselves: fed in chunks, so that memory stays flat."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from export.graph import input_name
from fmx.data.rows import Rows
from fmx.progress import progress

CHUNK = 32
HISTOGRAM_CHUNK = 8
CHUNK_SIDE = 64
"""Pixels of a row's side up to which chunks have so many rows. Larger rows come fewer at once: a chunk's activations are all in memory together."""

HISTOGRAM_ROWS = 64
"""Of the calibration rows: a histogram looks at every activation of a row, which takes far longer than its smallest and largest."""

RangeMethod = Literal["minmax", "percentile", "entropy"]
RANGE_METHODS: dict[RangeMethod, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.99, "symmetric": False}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512}),  # ONNX Runtime's default of 128 leaves nothing to choose from
}

Feed = Callable[[np.ndarray], np.ndarray]
"""How raw rows become what a body reads: images float32 [n, channels, height, width], texts int64 [n, length]."""

Ranges = dict[str, tuple[float, float]]
"""The smallest and largest value of each activation."""


def choose_rows(rows: Rows, count: int, seed: int) -> np.ndarray:
    """Choose `count` rows, the classes in turn (so each has its equal part while it lasts), as a function of the seed.

    Of texts with entities, or with several labels, those that have some and those that have none are the classes.

    Returns:
        int64 [min(count, n)], sorted indices.
    """
    random = np.random.default_rng(seed)
    labels = rows.labels if not rows.has_units else (rows.labels > 0).any(axis=1)
    classes = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    longest = max(len(index) for index in classes)
    dealt = [int(index[turn]) for turn in range(longest) for index in classes if turn < len(index)]
    return np.sort(np.array(dealt[:count], dtype=np.int64))


def chunks(images: np.ndarray, feed: Feed, size: int = CHUNK) -> Iterator[np.ndarray]:
    """Give chunks of at most `size` rows as a body reads them, fewer of rows that are larger than `CHUNK_SIDE` squared."""
    if images.ndim == 4:
        size = max(1, min(size, size * CHUNK_SIDE**2 // (images.shape[1] * images.shape[2])))
    for start in range(0, len(images), size):
        yield feed(images[start : start + size])


def collect_ranges(prepared: Path, method: RangeMethod, images: np.ndarray, feed: Feed, operators: tuple[str, ...] = ()) -> Ranges:
    """Find the range of every activation of a float model.

    Args:
        prepared: the model's file; another is written beside it.
        method: `minmax` takes all rows; `percentile` and `entropy` (Migacz 2017, "8-bit Inference with TensorRT") at most `HISTOGRAM_ROWS`
            of them, evenly spread, and cut off what is rare.
        images: calibration rows, raw.
        feed: how a body reads them.
        operators: whose inputs and outputs; empty is all.
    """
    kind, options = RANGE_METHODS[method]
    if method != "minmax" and len(images) > HISTOGRAM_ROWS:
        images = images[np.linspace(0, len(images) - 1, HISTOGRAM_ROWS).astype(int)]
    augmented = prepared.with_name(f"{method}.onnx")
    name = input_name(onnx.load(prepared, load_external_data=False))
    calibrator = create_calibrator(str(prepared), list(operators) or None, str(augmented), kind, extra_options=dict(options))
    with progress(f"calibrating ({method})", len(images)) as advance:
        for chunk in chunks(images, feed, CHUNK if method == "minmax" else HISTOGRAM_CHUNK):
            with contextlib.redirect_stdout(io.StringIO()):
                calibrator.collect_data(_Once([{name: chunk}]))  # a call a chunk: within one, ONNX Runtime keeps every activation
            advance(len(chunk))
    with contextlib.redirect_stdout(io.StringIO()):  # ONNX Runtime prints what it does
        found = calibrator.compute_data()
    return {name: (float(np.min(found[name].range_value[0])), float(np.max(found[name].range_value[1]))) for name in found.keys()}  # noqa: SIM118


class _Once(CalibrationDataReader):  # type: ignore[misc]
    """Gives each feed once."""

    def __init__(self, feeds: Iterable[dict[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Give the next feed, or None at the end."""
        return next(self._feeds, None)
