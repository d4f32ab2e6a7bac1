"""Writing a run (design: run.json, metrics.jsonl, best.safetensors, report.html, tensorboard/) into its working folder."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save

from finetune.loop import Epoch, Fit
from finetune.measurement import Measured
from fmx import host, storage
from fmx.contract import RunInfo
from fmx.data.rows import Rows
from fmx.errors import disk_errors
from fmx.report import charts, render
from fmx.run import RUN_FILE, WEIGHTS_FILE

MISTAKES = 12


def write_run(folder: Path, facts: dict[str, Any], fits: list[Fit], measured: Measured, test: Rows) -> RunInfo:
    """Write what a finished run holds beside its metrics and curves; run.json comes last, for it makes the folder a run.

    Args:
        folder: of the run.
        facts: the fields of `RunInfo` that the training knows.
        fits: one a stage.
        measured: the network at its best epoch, measured on the test rows.
        test: the test rows.
    """
    with disk_errors("writing the run"):
        state = {key: value.contiguous() for key, value in measured.weights.items()}
        storage.write_bytes(folder / WEIGHTS_FILE, save(state))
    info = RunInfo(
        **facts,
        metrics=measured.metrics,
        accuracy=measured.metrics["accuracy"],
        temperature=measured.temperature,
        best_epoch=fits[-1].best.epoch,
        epochs=len(fits[-1].epochs),
        weights_sha256=storage.sha256_file(folder / WEIGHTS_FILE),
        tools=host.library_versions(),
        host=host.describe(),
        created=host.now(),
    )
    storage.write_text(folder / "report.html", _report(info, [epoch for fit in fits for epoch in fit.epochs], measured.probabilities, test))
    storage.write_text(folder / RUN_FILE, info.model_dump_json(indent=2) + "\n")
    return info


def _report(info: RunInfo, epochs: list[Epoch], probabilities: np.ndarray, test: Rows) -> str:
    steps = list(range(1, len(epochs) + 1))
    losses = {"train": [epoch.train_loss for epoch in epochs], "validation": [epoch.validation_loss for epoch in epochs]}
    accuracies = {"validation": [epoch.validation_accuracy for epoch in epochs]}
    return render(
        "run.html.j2",
        info=info,
        loss_chart=charts.lines(steps, losses, "loss", "epoch"),
        accuracy_chart=charts.lines(steps, accuracies, "accuracy", "epoch", most=1.0),
        rate_chart=charts.lines(steps, {"rate": [epoch.learning_rate for epoch in epochs]}, "learning rate", "epoch"),
        range_chart=_range_chart(info.metrics.get("range_test")),
        confusion_chart=charts.matrix(info.metrics["confusion"], info.labels),
        waiting=sum(epoch.waiting * epoch.seconds for epoch in epochs) / max(1e-9, sum(epoch.seconds for epoch in epochs)),
        confident=_mistakes(info, probabilities, test, probabilities.max(axis=1)),
        worst=_mistakes(info, probabilities, test, -probabilities[np.arange(len(test)), test.labels]),
    )


def _range_chart(curve: list[tuple[float, float]] | None) -> str:
    if not curve:
        return ""
    return charts.lines([math.log10(rate) for rate, _ in curve], {"range test": [loss for _, loss in curve]}, "loss", "log10 of rate")


def _mistakes(info: RunInfo, probabilities: np.ndarray, test: Rows, order: np.ndarray) -> list[dict[str, Any]]:
    """Give wrongly answered test rows as thumbnails, those with the highest `order`, float [n], first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    wrong = wrong[np.argsort(-order[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "image": _data_url(test.images[i]),
            "name": test.names[i],
            "said": info.labels[predicted[i]],
            "score": float(probabilities[i].max()),
            "true": info.labels[test.labels[i]],
            "true_score": float(probabilities[i, test.labels[i]]),
        }
        for i in wrong
    ]


def _data_url(row: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
