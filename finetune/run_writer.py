"""Writing a run (design: run.json, metrics.jsonl, best.safetensors, report.html, tensorboard/) into its working folder."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save

from finetune.loop import Epoch, Fit
from finetune.network import Network
from fmx import host, storage
from fmx.contract import RunInfo
from fmx.data.rows import Rows
from fmx.errors import disk_errors
from fmx.report import charts, render
from fmx.run import RUN_FILE, WEIGHTS_FILE

WORST_MISTAKES = 12


def write_run(folder: Path, network: Network, facts: dict[str, Any], fitted: Fit, probabilities: np.ndarray, test: Rows) -> RunInfo:
    """Write everything but metrics.jsonl, which the loop's epochs were appended to.

    Args:
        folder: the working folder.
        network: at its best epoch.
        facts: the fields of `RunInfo` that the training knows.
        fitted: the epochs.
        probabilities: float [n, classes], of the test rows.
        test: the test rows.
    """
    with disk_errors("writing the run"):
        state = {key: value.detach().cpu().contiguous() for key, value in network.body.state_dict().items()}
        storage.write_bytes(folder / WEIGHTS_FILE, save(state))
        _write_tensorboard(folder / "tensorboard", fitted.epochs)
    info = RunInfo(
        **facts,
        accuracy=facts["metrics"]["accuracy"],
        best_epoch=fitted.best.epoch,
        epochs=len(fitted.epochs),
        weights_sha256=storage.sha256_file(folder / WEIGHTS_FILE),
        tools=host.library_versions(),
        host=host.describe(),
        created=host.now(),
    )
    storage.write_text(folder / "report.html", _report(info, fitted, probabilities, test))
    storage.write_text(folder / RUN_FILE, info.model_dump_json(indent=2) + "\n")
    return info


def _write_tensorboard(folder: Path, epochs: list[Epoch]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for epoch in epochs:
            for name in ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "rows_per_second"):
                writer.add_scalar(name, getattr(epoch, name), epoch.epoch)


def _report(info: RunInfo, fitted: Fit, probabilities: np.ndarray, test: Rows) -> str:
    numbers = [epoch.epoch for epoch in fitted.epochs]
    losses = {"train": [epoch.train_loss for epoch in fitted.epochs], "validation": [epoch.validation_loss for epoch in fitted.epochs]}
    accuracies = {"validation": [epoch.validation_accuracy for epoch in fitted.epochs]}
    return render(
        "run.html.j2",
        info=info,
        loss_chart=charts.lines(numbers, losses, "loss", "epoch"),
        accuracy_chart=charts.lines(numbers, accuracies, "accuracy", "epoch", most=1.0),
        rate_chart=charts.lines(numbers, {"peak rate": [epoch.learning_rate for epoch in fitted.epochs]}, "learning rate", "epoch"),
        confusion_chart=charts.matrix(info.metrics["confusion"], info.labels),
        mistakes=_worst_mistakes(info, probabilities, test),
    )


def _worst_mistakes(info: RunInfo, probabilities: np.ndarray, test: Rows) -> list[dict[str, Any]]:
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    wrong = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:WORST_MISTAKES]
    return [
        {
            "image": _data_url(test.images[i]),
            "name": test.names[i],
            "said": info.labels[predicted[i]],
            "score": float(probabilities[i].max()),
            "true": info.labels[test.labels[i]],
        }
        for i in wrong
    ]


def _data_url(row: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
