"""Writing a run (design: run.json, metrics.jsonl, best.safetensors, report.html, tensorboard/) into its working folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.torch import save

from finetune.loop import Epoch, Fit
from finetune.measurement import Measured
from fmx import host, storage
from fmx.contract import RunInfo
from fmx.data.rows import Rows
from fmx.errors import disk_errors
from fmx.report import charts, render
from fmx.report.gallery import galleries
from fmx.run import RUN_FILE, WEIGHTS_FILE


def write_run(
    folder: Path, facts: dict[str, Any], fits: list[Fit], measured: Measured, test: Rows, files: Mapping[str, str] = MappingProxyType({})
) -> RunInfo:
    """Write what a finished run holds beside its metrics and curves; run.json comes last, for it makes the folder a run.

    Args:
        folder: of the run.
        facts: the fields of `RunInfo` that the training knows.
        fits: one a stage; none for a run that is made from others.
        measured: the network at its best epoch, measured on the test rows.
        test: the test rows.
        files: texts that belong beside the weights, by name.
    """
    with disk_errors("writing the run"):
        state = {key: value.contiguous() for key, value in measured.weights.items()}
        storage.write_bytes(folder / WEIGHTS_FILE, save(state))
        for name, content in files.items():
            storage.write_text(folder / name, content)
    info = RunInfo(
        **facts,
        metrics=measured.metrics,
        accuracy=measured.metrics["accuracy"],
        temperature=measured.temperature,
        thresholds=measured.thresholds,
        best_epoch=fits[-1].best.epoch if fits else 0,
        epochs=len(fits[-1].epochs) if fits else 0,
        weights_sha256=storage.sha256_file(folder / WEIGHTS_FILE),
        files={name: storage.sha256_bytes(content.encode()) for name, content in files.items()},
        tools=host.library_versions(),
        host=host.describe(),
        created=host.now(),
    )
    storage.write_text(folder / "report.html", _report(info, [epoch for fit in fits for epoch in fit.epochs], measured.probabilities, test))
    storage.write_text(folder / RUN_FILE, info.model_dump_json(indent=2) + "\n")
    return info


def _report(info: RunInfo, epochs: list[Epoch], probabilities: np.ndarray, test: Rows) -> str:
    return render(
        "run.html.j2",
        info=info,
        curves=_curves(epochs, info.metrics.get("range_test"), test.judged.removeprefix("the ")),
        confusion_chart=charts.matrix(info.metrics["confusion"], tuple(info.metrics.get("confusion_names", info.labels))),
        waiting=sum(epoch.waiting * epoch.seconds for epoch in epochs) / max(1e-9, sum(epoch.seconds for epoch in epochs)),
        **galleries(info.labels, probabilities, test),
    )


def _curves(epochs: list[Epoch], sweep: list[tuple[float, float]] | None, judged: str) -> Sequence[str]:
    if not epochs:
        return []
    steps = list(range(1, len(epochs) + 1))
    losses = {"train": [epoch.train_loss for epoch in epochs], "validation": [epoch.validation_loss for epoch in epochs]}
    drawn = [
        charts.lines(steps, {"validation": [epoch.validation_accuracy for epoch in epochs]}, judged, "epoch", most=1.0),
        charts.lines(steps, losses, "loss", "epoch"),
        charts.lines(steps, {"rate": [epoch.learning_rate for epoch in epochs]}, "learning rate", "epoch"),
    ]
    if sweep:
        drawn.append(charts.lines([math.log10(rate) for rate, _ in sweep], {"range test": [loss for _, loss in sweep]}, "loss", "log10 of rate"))
    return drawn
