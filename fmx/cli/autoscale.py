"""`fmx autoscale`: what follows from a measured capacity."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading
from fmx.errors import DataError, PackageError

if TYPE_CHECKING:
    from serve.scaling.capacity import Capacity

app = typer.Typer(no_args_is_help=True, help="Numbers for autoscalers from a measured capacity, and a simulation of what they would do.")

Package = Annotated[str | None, typer.Argument(help="A package's folder or name.", show_default="latest")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _measured(package: str | None) -> Capacity:
    with loading("cpu,serve", "Autoscaling"):
        from fmx.package import find_package, load_package
        from serve.scaling.capacity import read_capacity
    opened = load_package(find_package(package))
    found = read_capacity(opened)
    if found is None:
        raise PackageError(f"The capacity of {opened.name} was not measured.", hint=f"fmx capacity {opened.name} --slo-p99 100")
    return found


@app.command()
def targets(
    package: Package = None,
    headroom: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the capacity that is used.")] = 0.7,
    json: Json = False,
) -> None:
    """Say what to tell an autoscaler: requests a second and requests under way for each replica.

    Example: fmx autoscale targets latest
    """
    found = _measured(package)
    from serve.scaling.targets import targets_of
    from serve.settings import load_settings

    computed = targets_of(found.requests_per_second, found.mean_ms / 1e3, load_settings().queue_rows, found.workers or 1, headroom)
    if json:
        output.answer_json({**asdict(computed), "capacity": asdict(found)})
        return
    measured = f"{found.requests_per_second:g} requests/s within {found.slo_p99_ms:g} ms, measured {found.date}"
    typer.echo(f"A replica is given {computed.requests_per_second:g} requests/s, {computed.concurrency} under way ({measured}).")
    typer.echo(f"It takes in {computed.hard_limit} images at once before it answers 429.")


@app.command()
def simulate(
    trace: Annotated[Path, typer.Option(help="CSV: seconds, requests a second; the last number of a line counts for 15 seconds.")],
    package: Package = None,
    start_seconds: Annotated[float, typer.Option(min=0, help="From the wish for a replica to its first answer.")] = 45.0,
    least: Annotated[int, typer.Option("--min", min=1, help="Replicas.")] = 2,
    most: Annotated[int, typer.Option("--max", min=1, help="Replicas.")] = 20,
    headroom: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the capacity that is used.")] = 0.7,
    json: Json = False,
) -> None:
    """Replay a trace of traffic through Kubernetes' HPA: scaled on offered requests against the capacity, and on CPU percentage as without fmx.

    Example: fmx autoscale simulate --trace monday.csv --start-seconds 60
    """
    found = _measured(package)
    from serve.scaling.simulation import Replica, simulate
    from serve.scaling.targets import targets_of

    rates = read_trace(trace)
    per_replica = targets_of(found.requests_per_second, found.mean_ms / 1e3, 1, found.workers or 1, headroom).requests_per_second
    replica = Replica(found.requests_per_second, max(found.most_in_closed_loop, found.requests_per_second), per_replica)
    outcomes = {rule: simulate(rates, replica, rule, start_seconds=start_seconds, least=least, most=max(least, most)) for rule in ("capacity", "cpu")}
    if json:
        output.answer_json({rule: asdict(outcome) for rule, outcome in outcomes.items()})
        return
    heads = ["scaled on", "within the objective", "refused", "replica-hours", "most replicas"]
    rows = [
        [name, f"{100 * item.within_objective:.2f} %", f"{100 * item.refused:.2f} %", f"{item.replica_hours:.1f}", str(item.most_replicas)]
        for name, item in (("offered requests", outcomes["capacity"]), ("CPU at 70 %", outcomes["cpu"]))
    ]
    output.table(f"{len(rates) * 15 / 3600:.1f} hours of traffic, peak {max(rates):g} requests/s", heads, rows)


def read_trace(path: Path) -> list[float]:
    """Read a trace. Raises: `DataError`."""
    rates: list[float] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, line in enumerate(csv.reader(file), 1):
                if not line or (number == 1 and not _is_number(line[-1])):
                    continue
                rate = float(line[-1]) if _is_number(line[-1]) else -1.0
                if rate < 0:
                    raise DataError(f"{path.name}, line {number}: {line[-1][:50]!r} is no rate.", hint="A number of requests a second, 0 or more.")
                rates.append(rate)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}).", hint="A CSV file whose last column is requests a second.") from error
    if not rates:
        raise DataError(f"{path.name} holds no rate.", hint="A CSV file whose last column is requests a second, a line for 15 seconds.")
    return rates


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text) and abs(float(text)) != float("inf")
    except ValueError:
        return False
