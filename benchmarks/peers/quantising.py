"""What the quantisers' scripts share: numpy and onnxruntime alone, so that they run in environments without fmx."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spec:
    """What a quantiser is given: one JSON object, the only argument."""

    body: str
    """The fp32 file: `normalised` float32 [batch, 3, height, width] to `logits` [batch, classes]."""
    rows: str
    """An .npz with calibration rows, and validation rows with labels: uint8 [n, height, width, 3]."""
    mean: list[float]
    std: list[float]
    to: str
    """Where the int8 file goes."""
    vnni: bool
    """Whether this host has VNNI."""
    max_drop: float | None = None
    """Points of validation accuracy that may be lost, for quantisers that take a budget."""

    @classmethod
    def read(cls) -> Spec:
        """Read the argument."""
        return cls(**json.loads(sys.argv[1]))

    def normalised(self, rows: np.ndarray) -> np.ndarray:
        """Normalise rows uint8 [n, height, width, 3] to float32 [n, 3, height, width]."""
        values = (rows.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def calibration(self) -> np.ndarray:
        """Give the rows that calibrate: uint8."""
        with np.load(self.rows) as stored:
            return np.asarray(stored["calibration"])

    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the rows that a budget is judged on, uint8, and their labels."""
        with np.load(self.rows) as stored:
            return stored["validation"], stored["labels"]

    def batches(self, size: int = 1) -> Iterator[dict[str, np.ndarray]]:
        """Feed the calibration rows."""
        rows = self.calibration()
        for start in range(0, len(rows), size):
            yield {"normalised": self.normalised(rows[start : start + size])}


def answer_timed(quantise: Callable[[Spec], str], version: str) -> None:
    """Quantise, and print what the harness reads: seconds without the imports, the profile, and the library's version."""
    spec = Spec.read()
    started = time.perf_counter()
    profile = quantise(spec)
    found: dict[str, Any] = {"seconds": time.perf_counter() - started, "profile": profile, "version": version}
    print("\n" + json.dumps(found))
