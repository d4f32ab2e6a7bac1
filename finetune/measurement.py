"""What a trained network is worth on rows that it was not trained on: probabilities, their calibration, robust accuracy, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.evaluation import eager_logits
from finetune.network import Network, apply_temperature
from finetune.objectives.adversarial import MEASURED_STEPS, robust_answers
from finetune.settings import TrainSettings
from fmx import statistics
from fmx.contract import ImageInput, Input
from fmx.data.rows import Rows
from fmx.evaluation import measures_of


@dataclass(frozen=True)
class Measured:
    """A network at its best epoch, and what it answers to the test rows."""

    weights: dict[str, Tensor]
    """As trained, before the temperature."""
    temperature: float
    probabilities: np.ndarray
    """float64 [n, classes], of tokens [n, max_length, classes], of the test rows, calibrated"""
    metrics: dict[str, Any]
    thresholds: tuple[float, ...] = ()
    """Of several labels: from where on each is said, before the head is shifted so that it is 0.5"""


def measure_network(
    network: Network,
    rows: dict[str, Rows],
    labels: tuple[str, ...],
    settings: TrainSettings,
    spec: Input,
    device: torch.device,
    answers: Callable[[Rows], np.ndarray] | None = None,
) -> Measured:
    """Fit the temperature on validation rows, put it into the head, and measure once on test rows.

    Args:
        network: at its best epoch.
        rows: decoded, of every split.
        labels: the classes.
        settings: of the training.
        spec: of the rows.
        device: where the network lives.
        answers: gives the network's logits without running all of it, where the method can.
    """
    answers = answers or partial(eager_logits, network, device=device)
    weights = {key: value.detach().cpu().clone() for key, value in network.body.state_dict().items()}
    test = rows["test"]
    logits = answers(test)
    validation = rows["validation"]
    held_out = answers(validation)
    temperature = statistics.fit_temperature(validation.picked(held_out), validation.targets)
    apply_temperature(network, temperature)
    probabilities = statistics.softmax(logits / temperature)
    thresholds: tuple[float, ...] = ()
    if test.has_several:
        thresholds = statistics.best_thresholds(statistics.softmax(held_out / temperature)[..., 1], validation.labels)
        said = statistics.shifted(probabilities[..., 1], thresholds)
        probabilities = np.stack([1 - said, said], axis=2)
    metrics = {
        **measures_of(probabilities, test, labels),
        "uncalibrated_error": statistics.calibration_error(statistics.softmax(test.picked(logits)), test.targets),
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    if settings.adversarial != "none" and isinstance(spec, ImageInput):
        labelled = robust_answers(network, test, settings.adversarial_eps, spec, device, settings.seed)
        share = statistics.wilson_interval(int((labelled == test.labels).sum()), len(test))
        metrics["robust_accuracy"] = {**share.model_dump(), "attack": f"PGD, {MEASURED_STEPS} steps, eps {settings.adversarial_eps:g}/255"}
    return Measured(weights, temperature, probabilities, metrics, thresholds)


def forget_peak(device: torch.device) -> None:
    """Have `peak_memory_bytes` of a GPU count from now on: several trainings of one process are told apart."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # before it a device is none to `reset_peak_memory_stats`
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Give the most memory that was held: of the GPU since `forget_peak`, where there is one, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
