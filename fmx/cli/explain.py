"""`fmx explain`: where in an image a model looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading


def explain(
    model: Annotated[str, typer.Argument(metavar="RUN|PACKAGE", help="A folder or name.")],
    inputs: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, or -.")],
    label: Annotated[str | None, typer.Option(help="Of which class.", show_default="the one that is answered")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the overlays.")] = Path("explanations"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write an overlay a image of what speaks for a class: Grad-CAM for a run, occlusion for a package or a transformer.

    Example: fmx explain runs/resnet18-1 photo.jpg
    """
    from fmx.cli.inputs import read_inputs
    from fmx.cli.models import find_model
    from fmx.explanation import Explainer, PackageExplainer, write_overlays
    from fmx.run import Run

    found = find_model(model)
    explainer: Explainer
    if isinstance(found, Run):
        with loading("train", "Explaining a run"):
            from finetune.explanation import RunExplainer
        explainer = RunExplainer(found)
    else:
        explainer = PackageExplainer(found)
    written = write_overlays(explainer, read_inputs(inputs), label, out)
    if json:
        output.answer_json(written)
        return
    rows = [[one["input"], one["label"], output.percent(one["score"]), one["method"], one["file"]] for one in written]
    output.table("Explanations", ["input", "label", "score", "method", "file"], rows)
