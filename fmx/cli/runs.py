"""`fmx runs`: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmx.cli import output

if TYPE_CHECKING:
    from fmx.contract import RunInfo


def runs(
    out: Annotated[Path | None, typer.Option(help="Folder of runs.", show_default="runs")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List runs side by side, the latest last; unfinished ones with what resumes them.

    Example: fmx runs
    """
    from fmx import storage
    from fmx.run import list_runs

    listed = list_runs(out or storage.home() / "runs")
    if json:
        output.answer_json([run.as_json() for run in listed])
        return
    rows = []
    for run in listed:
        info = run.info
        if info is None:
            rows.append([run.name, "", "", "", run.trouble, "", "", ""])
            continue
        method = info.settings.get("method", "") if not info.weights_origin.startswith(("soup of", "ensemble of")) else info.weights_origin.split()[0]
        rows.append(
            [
                info.name,
                info.model,
                method,
                str(info.settings.get("data", "")),
                _judged(info),
                f"{info.metrics['calibration_error']:.4f}",
                f"{info.best_epoch}/{info.epochs}",
                f"{info.train_seconds:,.0f} s",
            ]
        )
    output.table("Runs", ["run", "model", "method", "data", "test", "ECE", "epoch", "time"], rows)
    if not listed:
        output.next_step("There is no run yet.", "fmx train")


def _judged(info: RunInfo) -> str:
    what, value = output.judged(info.metrics)
    return f"{output.percent(value)} {what}" + (f" of {info.accuracy.n}" if what == "accuracy" else "")
