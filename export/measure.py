"""What a variant is worth: accuracy and drop on test rows, parity with the eager model, and latency beside fp32.

Everything is measured through `fmx.predictor.Predictor`, the object that serves, with the session options that serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from finetune.network import Network
from fmx import statistics
from fmx.contract import Comparison, Interval, Latency, Parity, TextInput
from fmx.data.rows import Rows
from fmx.entities import f1_of
from fmx.errors import ExportError, first_line
from fmx.evaluation import counts_of, drop_of
from fmx.host import usable_cpus
from fmx.predictor import Predictor
from fmx.progress import progress
from fmx.scores import expected, pearson
from fmx.statistics import accuracy_of, softmax
from fmx.tasks import Task
from fmx.texts import lengths_of
from fmx.timing import ROUNDS, interleaved

PARITY_BATCHES = (1, 2, 7)
PARITY_LIMIT = 1e-3
"""Largest difference of a probability between eager torch and the fp32 graph; rounding alone stays below 1e-5."""

NOTHING_WRITTEN = "Nothing was written."
LEAST_COSINE = 0.999
"""Of an embedding of the float graph and the eager network's."""

LATENCY_BATCHES = (1, 8)
QUICK_ROUNDS = 4


@dataclass(frozen=True)
class Measured:
    """One variant on the test rows."""

    accuracy: Interval
    drop: float
    parity: Parity
    comparison: Comparison
    probabilities: np.ndarray
    recalls: tuple[float, ...]
    """Of each class; 0 where it has no rows."""
    judged: str = "accuracy"
    """What the drop is in points of."""
    f1: float | None = None
    """Of entities or of several labels, whose drop is in points of it."""
    pearson: float | None = None
    """The same of scores."""


def check_parity(network: Network, predictor: Predictor, images: np.ndarray) -> None:
    """Check that the fp32 graph computes what the eager network computes, on batches of 1, 2 and 7 real rows.

    Args:
        network: eager, on the CPU.
        predictor: the fp32 graph.
        images: real rows, [n, *row_shape]; repeated where there are fewer than 7.

    Raises:
        ExportError: a probability differs by more than `PARITY_LIMIT`.
    """
    network.eval()
    batches = [np.resize(images, (size, *images.shape[1:])) for size in PARITY_BATCHES]
    if images.ndim == 2:
        batches.append(np.concatenate([predictor.task.example(whole=True), images[:1]]))  # a text as long as the window beside a short one
    for rows in batches:
        with torch.inference_mode():
            expected = predictor.task.spread(softmax(network(torch.from_numpy(rows)).numpy()), rows)
        try:
            answers = predictor.run(rows)
        except Exception as error:  # onnxruntime raises what its native part says
            raise ExportError(f"The exported graph does not run at batch {len(rows)}: {first_line(error)}", hint=NOTHING_WRITTEN) from error
        difference = float(np.abs(answers - expected).max())
        if not difference <= PARITY_LIMIT:
            raise ExportError(
                f"The exported graph does not compute what the model computes: at batch {len(rows)} a probability differs by {difference:.4f}.",
                hint=f"This model does not survive torch.onnx as it is. {NOTHING_WRITTEN}",
            )


def measure_answers(probabilities: np.ndarray, eager: np.ndarray, rows: Rows, classes: tuple[str, ...], batches: tuple[int, ...]) -> Measured:
    """Measure a variant by its answers to the test rows.

    Args:
        probabilities: the variant's, float [n, classes], of tokens [n, max_length, classes].
        eager: the eager network's, of the same shape.
        rows: the test rows.
        classes: their names.
        batches: sizes of the batches that the variant ran in.
    """
    drop, low, high = drop_of(eager, probabilities, rows, classes)
    labels, answers, wanted = rows.targets, rows.picked(probabilities), rows.picked(eager)
    said, reference = answers.argmax(axis=1), wanted.argmax(axis=1)
    worst, lost, support, recalls = _by_class(said, reference, rows, len(classes))
    same = float((said == reference).mean())
    parity = Parity(rows=len(labels), batch_sizes=batches, top1_agreement=same, max_difference=float(np.abs(answers - wanted).max()))
    comparison = Comparison(
        drop_low=round(low, 4),
        drop_high=round(high, 4),
        p_value=round(statistics.mcnemar_p(reference == labels, said == labels), 6),
        changed=round(1.0 - same, 6),
        worst_class=classes[worst],
        worst_class_drop=round(lost, 4),
        worst_class_rows=support,
        calibration_error=round(statistics.calibration_error(answers, labels), 6),
        eager_calibration_error=round(statistics.calibration_error(wanted, labels), 6),
    )
    accuracy = _wholly_right(said, rows) if rows.has_several else accuracy_of(answers, labels)
    f1 = round(f1_of(counts_of(said, rows, classes)), 6) if rows.has_units else None
    correlation = round(pearson(expected(probabilities, rows.grades), rows.scores), 6) if rows.grades else None
    return Measured(accuracy, round(drop, 4), parity, comparison, probabilities, recalls, rows.judged, f1, correlation)


def _wholly_right(said: np.ndarray, rows: Rows) -> Interval:
    """Count the rows of which all labels are right, of int [n * labels], 1 where one is said."""
    right = (said.reshape(rows.labels.shape) == rows.labels).all(axis=1)
    return statistics.wilson_interval(int(right.sum()), len(rows))


def _by_class(said: np.ndarray, reference: np.ndarray, rows: Rows, classes: int) -> tuple[int, float, int, tuple[float, ...]]:
    """Give the class that loses most recall, how many points, its rows, and every class's recall, from answers int [m]."""
    if not rows.has_several:
        matrix = statistics.confusion_matrix(said, rows.targets, classes)
        recalls = np.diag(matrix) / np.maximum(1, matrix.sum(axis=1))
        return *statistics.worst_class(reference, said, rows.targets, classes), tuple(map(float, recalls))
    right, before = ((given.reshape(rows.labels.shape) & rows.labels).sum(axis=0) for given in (said, reference))
    there = rows.labels.sum(axis=0)
    lost = 100.0 * (before - right) / np.maximum(1, there)
    worst = int(lost.argmax())
    return worst, float(lost[worst]), int(there[worst]), tuple(map(float, right / np.maximum(1, there)))


def embedding_cosine(embeddings: np.ndarray, eager: np.ndarray) -> float:
    """Give the least cosine of a graph's embeddings and the eager network's of the same rows, float32 [n, width] each, of length 1."""
    return round(float((embeddings * eager).sum(axis=1).min()), 6)


def dependence_on_batch(predictor: Predictor, images: np.ndarray) -> str:
    """Say how far a row's answer depends on the rows beside it; empty where it is no more than `PARITY_LIMIT`.

    Dynamic int8, whose scale is the batch's, seldom is below; static int8 of a small text model may round a padded row otherwise.
    """
    chosen = np.linspace(0, len(images) - 1, max(PARITY_BATCHES)).astype(int)
    rows = images[chosen]
    alone = np.concatenate([predictor.run(rows[i : i + 1]) for i in range(len(rows))])
    for size in PARITY_BATCHES[1:]:
        difference = float(np.abs(predictor.run(rows[:size]) - alone[:size]).max())
        if not difference <= PARITY_LIMIT:
            return f"It answers a batch of {size} rows otherwise than single rows (by {difference:.4f})."
    return ""


def timed_rows(task: Task, images: np.ndarray, batch: int) -> np.ndarray:
    """Give a batch to time: real images, repeated to fill it; of texts rows of half the window, for the time is that of the length."""
    return np.repeat(task.example(), batch, axis=0) if images.ndim == 2 else np.resize(images, (batch, *images.shape[1:]))


def quick_speed_up(reference: Predictor, other: Predictor, images: np.ndarray, batch: int) -> float:
    """Say how many times as fast as a reference another graph is at a batch, from a few interleaved rounds; for a search, not for a manifest."""
    rows = timed_rows(reference.task, images, batch)
    times = interleaved({"reference": lambda: reference.run(rows), "other": lambda: other.run(rows)}, QUICK_ROUNDS)
    return round(float(np.median(times["reference"]) / np.median(times["other"])), 3)


def measure_latency(
    predictors: dict[str, Predictor], images: np.ndarray, batches: tuple[int, ...], reference: str = "fp32"
) -> dict[str, tuple[Latency, ...]]:
    """Time the variants interleaved, in rounds of at least 50 ms a side, so that whatever disturbs the machine disturbs all of them.

    Args:
        predictors: by variant.
        images: real rows, repeated to fill a batch.
        batches: batch sizes.
        reference: the one that speed-ups are over.

    Returns:
        For each variant one `Latency` a batch size, with the median and minimum over single calls.
    """
    spec = predictors[reference].contract.input
    measured: dict[str, list[Latency]] = {name: [] for name in predictors}
    with progress("timing", ROUNDS * len(batches), "rounds") as advance:
        for batch in batches:
            rows = timed_rows(predictors[reference].task, images, batch)
            times = interleaved({name: partial(predictor.run, rows) for name, predictor in predictors.items()}, ROUNDS, advance)
            base = float(np.median(times[reference]))
            for name, seconds in times.items():
                median = float(np.median(seconds))
                measured[name].append(
                    Latency(
                        batch=batch,
                        threads=usable_cpus(),
                        median_ms=round(1e3 * median, 4),
                        minimum_ms=round(1e3 * min(seconds), 4),
                        speed_up=round(base / median, 3),
                        tokens=int(lengths_of(rows[:1], spec.pad_id)[0]) if isinstance(spec, TextInput) else None,
                    )
                )
    return {name: tuple(latencies) for name, latencies in measured.items()}
