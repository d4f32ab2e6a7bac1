"""What a variant is worth: accuracy and drop on test rows, parity with the eager model, and latency beside fp32.

Everything is measured through `fmx.predictor.Predictor`, the object that serves, with the session options that serve.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from finetune.network import Network
from fmx.contract import Interval, Latency, Parity
from fmx.errors import ExportError
from fmx.host import usable_cpus
from fmx.predictor import Predictor
from fmx.progress import Advance, progress
from fmx.statistics import accuracy_of, softmax

PARITY_BATCHES = (1, 2, 7)
PARITY_LIMIT = 1e-3
"""Largest difference of a probability between eager torch and the fp32 graph; rounding alone stays below 1e-5."""

LATENCY_BATCHES = (1, 8)
ROUNDS = 15
ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class Measured:
    """One variant on the test rows."""

    accuracy: Interval
    drop: float
    parity: Parity
    probabilities: np.ndarray


def check_parity(network: Network, predictor: Predictor, images: np.ndarray) -> None:
    """Check that the fp32 graph computes what the eager network computes, on batches of 1, 2 and 7 real rows.

    Args:
        network: eager, on the CPU.
        predictor: the fp32 graph.
        images: at least 7 real rows, uint8 [n, height, width, 3]; repeated where there are fewer.

    Raises:
        ExportError: a probability differs by more than `PARITY_LIMIT`.
    """
    network.eval()
    for size in PARITY_BATCHES:
        rows = np.resize(images, (size, *images.shape[1:]))
        with torch.inference_mode():
            expected = softmax(network(torch.from_numpy(rows)).numpy())
        difference = float(np.abs(predictor.run(rows) - expected).max())
        if not difference <= PARITY_LIMIT:
            raise ExportError(
                f"The exported graph does not compute what the model computes: at batch {size} a probability differs by {difference:.4f}.",
                hint="This model does not survive torch.onnx as it is; nothing was written.",
            )


def measure_variant(predictor: Predictor, images: np.ndarray, labels: np.ndarray, eager: np.ndarray, what: str) -> Measured:
    """Measure a variant on the test rows.

    Args:
        predictor: the variant.
        images: uint8 [n, height, width, 3].
        labels: int64 [n].
        eager: the eager network's probabilities, float [n, classes].
        what: names the progress bar.
    """
    with progress(what, len(images)) as advance:
        probabilities = predictor.run_all(images, advance)
    accuracy = accuracy_of(probabilities, labels)
    parity = Parity(
        rows=len(images),
        batch_sizes=PARITY_BATCHES,
        top1_agreement=float((probabilities.argmax(axis=1) == eager.argmax(axis=1)).mean()),
        max_difference=float(np.abs(probabilities - eager).max()),
    )
    drop = 100.0 * (accuracy_of(eager, labels).value - accuracy.value)
    return Measured(accuracy, round(drop, 4), parity, probabilities)


def measure_latency(predictors: dict[str, Predictor], images: np.ndarray, batches: tuple[int, ...]) -> dict[str, tuple[Latency, ...]]:
    """Time the variants interleaved, in rounds of at least 50 ms a side, so that whatever disturbs the machine disturbs all of them.

    Args:
        predictors: by variant; `fp32` must be one of them.
        images: real rows, repeated to fill a batch.
        batches: batch sizes.

    Returns:
        For each variant one `Latency` a batch size, with the median and minimum over single calls.
    """
    measured: dict[str, list[Latency]] = {name: [] for name in predictors}
    with progress("timing", ROUNDS * len(batches), "rounds") as advance:
        for batch in batches:
            rows = np.resize(images, (batch, *images.shape[1:]))
            times = _interleaved(predictors, rows, advance)
            reference = float(np.median(times["fp32"]))
            for name, seconds in times.items():
                median = float(np.median(seconds))
                measured[name].append(
                    Latency(
                        batch=batch,
                        threads=usable_cpus(),
                        median_ms=round(1e3 * median, 4),
                        minimum_ms=round(1e3 * min(seconds), 4),
                        speed_up=round(reference / median, 3),
                    )
                )
    return {name: tuple(latencies) for name, latencies in measured.items()}


def _interleaved(predictors: dict[str, Predictor], rows: np.ndarray, advance: Advance) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in predictors}
    for predictor in predictors.values():
        for _ in range(3):
            predictor.run(rows)
    for _ in range(ROUNDS):
        for name, predictor in predictors.items():
            predictor.run(rows)
            until = time.perf_counter() + ROUND_SECONDS
            while time.perf_counter() < until or len(times[name]) < 3:
                started = time.perf_counter()
                predictor.run(rows)
                times[name].append(time.perf_counter() - started)
        advance(1)
    return times
