"""`fmx export`: a run in, a model package out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import output
from fmx.cli.signals import loading
from fmx.errors import UsageError

if TYPE_CHECKING:
    from fmx.contract import Variant
    from fmx.package import Package


def export(
    run: Annotated[str | None, typer.Argument(help="A run's folder or name.", show_default="latest")] = None,
    quantize: Annotated[str | None, typer.Option(help="none, fp16, int8, or auto: what is fastest within the budget.", show_default="none")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Most points of accuracy, F1 or correlation that a variant may lose.", show_default="1.0"),
    ] = None,
    target_latency: Annotated[float | None, typer.Option(help="Most milliseconds at --batch that the first variant may take.")] = None,
    max_size: Annotated[float | None, typer.Option(help="Most megabytes that the first variant may have.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Kinds of host, joined by commas: vnni, generic, arm64, cuda, host.", show_default="host")
    ] = None,
    on_miss: Annotated[str | None, typer.Option(help="When the budget is missed: fail (exit 5) or fp32.", show_default="fail")] = None,
    accept: Annotated[
        str | None, typer.Option(help="point: the measured drop decides; strict: the upper end of its 95 % interval.", show_default="point")
    ] = None,
    prune: Annotated[
        str | None, typer.Option(help="Share of the channels to take out, with recovery training, or auto: the most that the budget allows.")
    ] = None,
    recover: Annotated[int | None, typer.Option(help="Epochs of recovery: after each pruning step, and where int8 misses.")] = None,
    time_budget: Annotated[float | None, typer.Option(help="Minutes after which a search takes the best that it has.")] = None,
    batch: Annotated[int | None, typer.Option(help="Batch at which a variant must beat fp32.", show_default="1")] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 13 to 23.", show_default="20")] = None,
    calibration_rows: Annotated[int | None, typer.Option(help="Training rows that calibrate int8.", show_default="256")] = None,
    embedding: Annotated[
        bool | None, typer.Option("--embedding", help="Give each text's vector beside its labels, for retrieval (POST /v1/embed).")
    ] = None,
    samples: Annotated[
        bool | None, typer.Option("--samples/--no-samples", help="Keep a few test rows as golden rows.", show_default="samples")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where variants are measured: auto or cpu.", show_default="auto")] = None,
    name: Annotated[str | None, typer.Option(help="Of the package.", show_default="MODEL-N")] = None,
    force: Annotated[bool | None, typer.Option("--force", help="Replace a package of this name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of packages.", show_default="packages")] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="FILE.onnx", help="Import an image classifier that was trained elsewhere, in place of a run.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="With --from: what the file does.", show_default="image-classification")] = None,
    labels: Annotated[str | None, typer.Option(help="With --from: a file with one label a line, or labels joined by commas.")] = None,
    data: Annotated[str | None, typer.Option(help="With --from: labelled rows to evaluate it on.", show_default="unevaluated")] = None,
    mean: Annotated[str | None, typer.Option(help="With --from: pixel means on 0..255, R,G,B.", show_default="ImageNet's")] = None,
    std: Annotated[str | None, typer.Option(help="With --from: pixel deviations, R,G,B.", show_default="ImageNet's")] = None,
    resize: Annotated[str | None, typer.Option(help="With --from: crop (scale, keep the centre) or squash.", show_default="crop")] = None,
    crop_fraction: Annotated[float | None, typer.Option(help="With --from: share of the side that the crop keeps.", show_default="1.0")] = None,
    interpolation: Annotated[str | None, typer.Option(help="With --from: bilinear or bicubic.", show_default="bilinear")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which stages would run and which are kept; do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print manifest.json, and nothing else, on standard output.")] = False,
) -> None:
    """Export a run as a model package: ONNX variants, measured on the same held-out rows by the predictor that serves.

    Example: fmx export --quantize int8 --max-drop 0.5
    """
    of_import: dict[str, Any] = {"task": task, "labels": labels, "data": data, "mean": _triple("mean", mean), "std": _triple("std", std)}
    of_import |= {"resize": resize, "crop_fraction": crop_fraction, "interpolation": interpolation}
    options = {key: value for key, value in locals().items() if key not in ("run", "out", "json", "dry_run", "from_", "of_import", *of_import)}
    if from_ is not None:
        _import(run, from_, {**options, **of_import}, out, json, dry_run)
        return
    given = [key for key, value in of_import.items() if value is not None]
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} belongs to --from FILE.onnx.", hint="A run knows its own.")
    from export.settings import check_settings
    from fmx.run import find_run

    check_settings(options)  # before torch is loaded, which takes seconds
    find_run(run)
    with loading("train,export", "Exporting"):
        from export.pipeline import export_package
        from export.plan import planned_stages

    if dry_run:
        stages = planned_stages(run, **options)
        if json:
            output.answer_json(stages)
        else:
            output.table("Stages", ["stage", "what", "now"], [[one["stage"], one["what"], "kept" if one["kept"] else "would run"] for one in stages])
        return
    package = export_package(run, out=out, say=output.say, **options)
    if json:
        output.answer_json(package.manifest.model_dump(mode="json"))
        return
    show_variants(package)
    output.next_step(f"Left {package.folder} (report.html has the charts).", "bentoml serve")


def _triple(name: str, given: str | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        numbers = tuple(float(part) for part in given.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise UsageError(f"--{name} is {given!r}: it must be three numbers joined by commas.", hint=f"For example: --{name} 127,127,127")
    return numbers


def _import(run: str | None, file: Path, options: dict[str, Any], out: Path | None, json: bool, dry_run: bool) -> None:
    """Make a package from a file that was trained elsewhere."""
    taken = ("task", "labels", "data", "mean", "std", "resize", "crop_fraction", "interpolation", "samples", "name", "force")
    other = [key for key, value in options.items() if value is not None and key not in taken]
    if run is not None or other or dry_run:
        what = "A run" if run is not None else f"--{other[0].replace('_', '-')}" if other else "--dry-run"
        raise UsageError(f"{what} has no place beside --from.", hint=f"These have: {', '.join('--' + key for key in taken)}.")
    if options["labels"] is None:
        raise UsageError("--from needs --labels.", hint="A file with one label a line, or the labels joined by commas.")
    with loading("train,export", "Importing"):
        from export.foreign import import_model

    package = import_model(file, out=out, say=output.say, **{key: options[key] for key in taken})
    if json:
        output.answer_json(package.manifest.model_dump(mode="json"))
        return
    show_variants(package)
    output.next_step(f"Left {package.folder}.", "bentoml serve")


def show_variants(package: Package) -> None:
    """Print the table of a package's variants, in serving order."""
    variants = package.manifest.variants
    batches = next(([at.batch for at in variant.latency] for variant in variants if variant.latency), [])
    columns = ["variant", "size", *_own_measure(variants[0])[:1], "accuracy", "95 % interval", "drop", "agreement"]
    for batch in batches:
        columns += [f"batch {batch}", "speed-up"]
    rows = [_row(variant, len(batches)) for variant in variants]
    judged = variants[0].accuracy
    output.table(f"Package {package.name}, " + (f"{judged.n} test {_what(package)}" if judged else "not evaluated"), columns, rows)
    for variant in variants:
        typer.echo(f"{variant.name}: {variant.why}")


def _what(package: Package) -> str:
    return "units of texts" if package.manifest.output.kind == "tags" else "rows"


def _own_measure(variant: Variant) -> list[str]:
    """Give the name and value of what stands before accuracy, where there is such a thing."""
    if variant.f1 is not None:
        return ["F1", output.percent(variant.f1)]
    return ["correlation", f"{variant.pearson:.4f}"] if variant.pearson is not None else []


def _row(variant: Variant, batches: int) -> list[str]:
    row = [variant.name, f"{variant.bytes / 1e6:.2f} MB", *_own_measure(variant)[1:]]
    if variant.accuracy is None:
        row += ["-"] * 2
    else:
        row += [output.percent(variant.accuracy.value), f"{100 * variant.accuracy.low:.2f} to {100 * variant.accuracy.high:.2f}"]
    row.append("-" if variant.drop is None else f"{variant.drop:.2f}")
    row.append(output.percent(variant.parity.top1_agreement) if variant.parity else "-")
    for at in variant.latency:
        row += [f"{at.median_ms:.2f} ms", f"{at.speed_up:.2f} x"]
    return row + ["unmeasured", "-"] * (batches - len(variant.latency))
