"""`fmx soup` and `fmx ensemble`: a run made from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading
from fmx.cli.train import show_run

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders or names; fmx runs lists them.")]
Name = Annotated[str | None, typer.Option(help="Of the new run.", show_default="by kind and model")]
Out = Annotated[Path | None, typer.Option(help="Folder of runs.", show_default="runs")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print run.json, and nothing else, on standard output.")]


def soup(runs: Runs, name: Name = None, out: Out = None, device: Device = "auto", json: Json = False) -> None:
    """Average the weights of runs that share model, size and data; kept only if validation improves (else exit 5).

    Example: fmx soup resnet18-1 resnet18-2 resnet18-3
    """
    with loading("train", "Averaging runs"):
        from finetune.combination import make_soup
    show_run(make_soup(runs, out=out, name=name, device=device, say=output.say), json)


def ensemble(runs: Runs, name: Name = None, out: Out = None, device: Device = "auto", json: Json = False) -> None:
    """Average the probabilities of runs that share size and data, as one run that exports as one graph.

    Example: fmx ensemble resnet18-1 efficientnet_lite0-1 && fmx export
    """
    with loading("train", "Combining runs"):
        from finetune.combination import make_ensemble
    show_run(make_ensemble(runs, out=out, name=name, device=device, say=output.say), json)
