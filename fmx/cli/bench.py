"""`fmx bench`: how fast a package or any ONNX file is on this host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fmx.cli import output
from fmx.errors import UsageError


def bench(
    model: Annotated[str | None, typer.Argument(metavar="PACKAGE|FILE.onnx", help="A package, or an ONNX file.", show_default="latest")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, joined by commas.")] = "1,8",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads inside an operator.", show_default="usable CPUs")] = None,
    provider: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    variant: Annotated[str | None, typer.Option(help="Of a package.", show_default="every one that fits this host")] = None,
    dim: Annotated[list[str] | None, typer.Option(help="Length of another dynamic axis: NAME=LENGTH; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="For each batch size, after warming up.")] = 2.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time single calls: smallest, median, 90th and 99th percentile, rows a second, and how much repeats differ.

    Example: fmx bench latest --batch 1,8,32
    """
    from fmx import host
    from fmx.bench import bench_file
    from fmx.runtime import choose_device

    batches, sizes = _batches(batch), dimensions(dim or [])
    device = choose_device(provider)
    used = threads or host.usable_cpus()
    found: dict[str, list[dict[str, Any]]] = {}
    files, own_sizes = _files(model, variant, device)
    sizes = {**own_sizes, **sizes}
    for name, path in files.items():
        found[name] = [one.as_json() for one in bench_file(path, batches, threads=used, device=device, sizes=sizes, seconds=seconds)]
    if json:
        output.answer_json({"host": host.describe(), "threads": used, "device": device, "timings": found})
        return
    columns = ["file", "batch", "smallest", "median", "90 %", "99 %", "rows/s", "calls", "repeats differ by"]
    rows = [
        [
            name,
            str(one["batch"]),
            *(f"{one[key]:.2f} ms" for key in ("minimum_ms", "median_ms", "p90_ms", "p99_ms")),
            f"{one['rows_per_second']:,.0f}",
            str(one["calls"]),
            output.percent(one["spread"]),
        ]
        for name, timings in found.items()
        for one in timings
    ]
    output.table(f"{used} threads, {device}, {host.cpu_name()}", columns, rows)
    if any(one["spread"] > 0.1 for timings in found.values() for one in timings):
        typer.echo("Repeats differ by more than a tenth: something else is using this machine, or its clock changes. Measure again, or --seconds 10.")


def _batches(given: str) -> list[int]:
    try:
        batches = [int(part) for part in given.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise UsageError(f"--batch is {given!r}: it must be whole numbers from 1, joined by commas.", hint="For example: --batch 1,8")
    return list(dict.fromkeys(batches))


def dimensions(given: list[str]) -> dict[str, int]:
    """Read NAME=LENGTH options. Raises: `UsageError`."""
    sizes = {}
    for part in given:
        name, _, length = part.partition("=")
        if not name or not length.isdigit() or int(length) < 1:
            raise UsageError(f"--dim is {part!r}: it must be NAME=LENGTH.", hint="For example: --dim sequence=128")
        sizes[name] = int(length)
    return sizes


def _files(given: str | None, variant: str | None, device: str) -> tuple[dict[str, Path], dict[str, int]]:
    """Name the files to time, of a package every variant that fits this host, or the one that is asked for; and the tokens of half its window."""
    from fmx.contract import TextInput
    from fmx.package import find_package, load_package

    if given is not None and given.endswith(".onnx"):
        if variant is not None:
            raise UsageError("--variant is for packages.", hint="Give a package, or leave it out.")
        if not Path(given).is_file():
            raise UsageError(f"There is no file {given}.", hint="Give an ONNX file or a package.")
        return {Path(given).name: Path(given)}, {}
    package = load_package(find_package(given))
    chosen = [package.variant(variant)] if variant else [one for one in package.manifest.variants if package.fits(one, device)]
    spec = package.manifest.input
    sizes = {"sequence": max(1, spec.max_length // 2)} if isinstance(spec, TextInput) else {}
    return {one.name: package.folder / one.file for one in chosen}, sizes
