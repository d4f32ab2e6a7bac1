"""`fmx deploy`: everything that a package needs in production, as a folder of files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading


def deploy(
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    package: Annotated[str | None, typer.Argument(help="A package's folder or name.", show_default="latest")] = None,
    name: Annotated[str, typer.Option(help="Of the deployment, and of Prometheus' job.")] = "fmx",
    namespace: Annotated[str, typer.Option(help="Kubernetes'.")] = "default",
    image: Annotated[str | None, typer.Option(help="Name and tag of the image.", show_default="NAME:PACKAGE-VERSION")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes of a replica.", show_default="as measured")] = None,
    autoscaler: Annotated[str, typer.Option(help="hpa, keda, knative or none.")] = "hpa",
    least: Annotated[int, typer.Option("--min", min=1, help="Replicas.")] = 2,
    most: Annotated[int, typer.Option("--max", min=1, help="Replicas.")] = 10,
    headroom: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the capacity that is used.")] = 0.7,
    prometheus: Annotated[
        str, typer.Option(metavar="URL", help="Where the cluster's Prometheus is, for KEDA and prometheus-adapter.")
    ] = "http://prometheus-operated.monitoring.svc:9090",
    redis: Annotated[bool, typer.Option("--redis", help="Count rates and quotas in Redis, for all replicas.")] = False,
    model_days: Annotated[int, typer.Option(min=1, help="Age of the model from which an alert says so.")] = 180,
    force: Annotated[bool, typer.Option("--force", help="Replace what fmx deploy wrote there before; its keys/ is kept.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print deploy.json, and nothing else, on standard output.")] = False,
) -> None:
    """Write an image's folder, Compose, Kubernetes, Prometheus and Grafana files for a package, computed from its measured capacity.

    Example: fmx deploy latest --out deploy --image registry.example.com/digits:1
    """
    with loading("cpu,serve", "Deploying"):
        from fmx.package import find_package, load_package
        from serve.deploy.folder import RECORD, check_target, write_folder
        from serve.deploy.plan import not_carried, plan_deployment, read_options
        from serve.settings import load_settings
    options = read_options(
        name=name,
        namespace=namespace,
        image=image,
        device=device,
        workers=workers,
        autoscaler=autoscaler,
        least=least,
        most=most,
        headroom=headroom,
        prometheus=prometheus,
        redis=redis,
        model_days=model_days,
    )
    folder = find_package(package)
    check_target(out, folder, force=force)
    plan = plan_deployment(load_package(folder), load_settings(), options)
    write_folder(plan, out, force=force)
    if json:
        typer.echo((out / RECORD).read_text(), nl=False)
        return
    if plan.capacity is not None and plan.targets is not None:
        measured, given = plan.capacity, plan.targets
        typer.echo(
            f"A replica is given {given.requests_per_second:g} of the {measured.requests_per_second:g} requests/s that it was measured to hold "
            f"within {measured.slo_p99_ms:g} ms ({measured.date})."
        )
        if device == "cuda" and plan.package.variant(measured.variant).requires.device == "cpu":
            output.say(f"{measured.variant} runs on CPUs too: was its capacity measured on the GPU (FMX_DEVICE=cuda fmx capacity)?")
    if left_out := not_carried(plan.settings):
        output.say(f"Set here and not in the written files: {', '.join(left_out)}. Add what production needs.")
    output.next_step(f"Left {out} (README.md says how to use it).", f"docker build --tag {plan.image} {shlex.quote(str(out))}")
