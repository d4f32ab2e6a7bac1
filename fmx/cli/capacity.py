"""`fmx capacity`: how many requests a second one replica holds within an objective."""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading
from fmx.errors import UsageError


def capacity(
    target: Annotated[str | None, typer.Argument(metavar="PACKAGE|URL", help="A package, or a running service.", show_default="latest")] = None,
    slo_p99: Annotated[float, typer.Option("--slo-p99", min=0.1, help="The objective: milliseconds that the 99th percentile may take.")] = 100.0,
    inputs: Annotated[
        Path | None, typer.Option("--input", help="An image, a .txt file or a folder, to send.", show_default="the golden rows")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each trial.")] = 5.0,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of the replica that is started for a package.")] = 1,
    key: Annotated[str | None, typer.Option(help="A running service's key; FMX_KEY does too.", show_default="FMX_KEY")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the capacity of one replica: the highest rate of requests whose p99 is within the objective.

    Requests arrive at Poisson times, and latency counts from the intended time of sending. The client runs on this host too: next to a replica
    that is started here, it takes a part of the cores.

    Example: fmx capacity latest --slo-p99 100 --input photos/
    """
    with loading("cpu,serve", "Measuring capacity"):
        from fmx import host
        from fmx.package import find_package, load_package
        from serve.scaling.capacity import Capacity, bodies_of, golden_bodies, keep_capacity, measure_capacity
        from serve.scaling.load import Load
        from serve.scaling.replica import replica_of
        from serve.settings import load_settings
    url = target if target is not None and target.startswith(("http://", "https://")) else None
    package = None if url else load_package(find_package(target))
    if package is None and inputs is None:
        raise UsageError("What to send to a running service must be said.", hint="Name a file or a folder: --input photos/")
    bodies = bodies_of(_files(inputs)) if inputs is not None else golden_bodies(package) if package is not None else []
    if not bodies:
        raise UsageError(f"There is no image or .txt file in {inputs}.", hint="Name a folder of images or .txt files.")

    async def measure(url: str) -> tuple[dict[str, str], Capacity]:
        async with Load(url, key or os.environ.get("FMX_KEY", ""), bodies) as load:
            model = await load.model()
            rate, observed, most = await measure_capacity(load, slo_p99, seconds, output.say)
        return model, Capacity(
            requests_per_second=round(rate, 2),
            slo_p99_ms=slo_p99,
            p99_ms=round(observed.latency_ms(0.99), 2),
            mean_ms=round(1e3 * observed.mean_s, 2),
            most_in_closed_loop=round(most, 2),
            package_digest=model["digest"],
            variant=model["variant"],
            workers=workers if package is not None else None,
            threads=(load_settings().threads or max(1, host.usable_cpus() // workers)) if package is not None else None,
            machine=host.describe() if package is not None else None,
            date=host.now(),
        )

    with replica_of(package, workers) if package is not None else nullcontext(url) as served:
        model, found = asyncio.run(measure(str(served)))
    if json:
        output.answer_json(asdict(found))
    else:
        typer.echo(
            f"{found.requests_per_second:g} requests/s within {slo_p99:g} ms (p99 {found.p99_ms:g} ms, mean {found.mean_ms:g} ms), "
            f"{model['name']} {found.variant}{'' if url else f', {workers} worker(s) of {found.threads} thread(s)'}."
        )
    if package is not None:
        path = keep_capacity(package, found)
        if not json:
            output.next_step(f"Left {path}.", "fmx autoscale targets")


def _files(given: Path) -> list[Path]:
    from serve.scaling.capacity import CONTENT_TYPES

    return sorted(file for file in given.iterdir() if file.suffix.lower() in CONTENT_TYPES and file.is_file()) if given.is_dir() else [given]
