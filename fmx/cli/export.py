"""`fmx export`: a run in, a model package out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmx.cli import output

if TYPE_CHECKING:
    from fmx.package import Package


def export(
    run: Annotated[str | None, typer.Argument(help="A run's folder or name.", show_default="latest")] = None,
    quantize: Annotated[str | None, typer.Option(help="none or int8.", show_default="none")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Most points of accuracy that int8 may lose.", show_default="1.0")] = None,
    on_miss: Annotated[str | None, typer.Option(help="When int8 misses: fail (exit 5, nothing written) or fp32.", show_default="fail")] = None,
    batch: Annotated[int | None, typer.Option(help="Batch at which int8 must beat fp32.", show_default="1")] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 18 to 23.", show_default="20")] = None,
    calibration_rows: Annotated[int | None, typer.Option(help="Training rows that calibrate int8.", show_default="256")] = None,
    samples: Annotated[
        bool | None, typer.Option("--samples/--no-samples", help="Keep a few test rows as golden rows.", show_default="samples")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where variants are measured: auto or cpu.", show_default="auto")] = None,
    name: Annotated[str | None, typer.Option(help="Of the package.", show_default="MODEL-N")] = None,
    force: Annotated[bool | None, typer.Option("--force", help="Replace a package of this name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of packages.", show_default="packages")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print manifest.json, and nothing else, on standard output.")] = False,
) -> None:
    """Export a run as a model package: ONNX variants, measured on the same held-out rows by the predictor that serves.

    Example: fmx export --quantize int8 --max-drop 0.5
    """
    options = {key: value for key, value in locals().items() if key not in ("run", "out", "json")}
    from export.settings import check_settings
    from fmx.run import find_run

    check_settings(options)  # before torch is loaded, which takes seconds
    find_run(run)
    try:
        from export.pipeline import export_package
    except ImportError as error:
        from fmx.errors import missing_extra

        raise missing_extra("train,export", "Exporting") from error

    package = export_package(run, out=out, say=output.say, **options)
    if json:
        output.answer_json(package.manifest.model_dump(mode="json"))
        return
    show_variants(package)
    output.next_step(f"Left {package.folder} (report.html has the charts).", "bentoml serve")


def show_variants(package: Package) -> None:
    """Print the table of a package's variants, in serving order."""
    variants = package.manifest.variants
    columns = ["variant", "size", "accuracy", "95 % interval", "drop", "agreement"]
    for at in variants[0].latency:
        columns += [f"batch {at.batch}", "speed-up"]
    rows = []
    for variant in variants:
        accuracy = variant.accuracy
        row = [
            variant.name,
            f"{variant.bytes / 1e6:.2f} MB",
            output.percent(accuracy.value),
            f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f}",
            f"{variant.drop:.2f}",
            output.percent(variant.parity.top1_agreement),
        ]
        for at in variant.latency:
            row += [f"{at.median_ms:.2f} ms", f"{at.speed_up:.2f} x"]
        rows.append(row)
    output.table(f"Package {package.name}, {variants[0].accuracy.n} test rows", columns, rows)
    for variant in variants:
        typer.echo(f"{variant.name}: {variant.why}")
