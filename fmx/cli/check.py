"""`fmx check`: can this ONNX file be trusted?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output
from fmx.cli.bench import dimensions
from fmx.cli.signals import loading


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="From anywhere.")],
    dim: Annotated[list[str] | None, typer.Option(help="Length of a dynamic axis beside the batch: NAME=LENGTH; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Open, run and judge an ONNX file; exit 5 when it should not be used as it is.

    Example: fmx check model.onnx
    """
    with loading("cpu,export", "Checking a file"):
        from export.check import check_file

    checked = check_file(file, dimensions(dim or []))
    if json:
        output.answer_json({**checked.facts, "findings": [finding.as_json() for finding in checked.findings]})
    else:
        _show(checked.facts, [[finding.severity, finding.code, finding.message] for finding in checked.findings])
    if checked.has_errors:
        raise typer.Exit(5)


def _show(facts: dict[str, object], rows: list[list[str]]) -> None:
    parts = [f"{int(str(facts['bytes'])) / 1e6:.2f} MB"]
    parts += [f"{name.replace('_', ' ')} {facts[name]}" for name in ("opset", "ir_version", "precision", "batch") if name in facts]
    if "latency_ms" in facts:
        parts.append(f"{float(str(facts['latency_ms'])):.2f} ms a call")
    typer.echo(f"{facts['file']}: {', '.join(parts)}")
    if rows:
        output.table("Findings", ["severity", "finding", "what"], rows)
    else:
        typer.echo("Nothing was found that speaks against it.")
