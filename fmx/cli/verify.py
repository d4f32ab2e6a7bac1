"""`fmx verify`: is this package what was exported, and does it compute here what it computed there?"""

from __future__ import annotations

from typing import Annotated

import typer

from fmx.cli import output


def verify(
    package: Annotated[str | None, typer.Argument(help="A package's folder or name.", show_default="latest")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every file's hash and replay the golden rows on every variant that fits this host.

    Example: fmx verify latest
    """
    from fmx.package import find_package, load_package
    from fmx.predictor import PackagePredictor

    found = load_package(find_package(package))
    fitting = [item.name for item in found.manifest.variants if found.fits(item, device)]
    differences = {name: PackagePredictor.open(found.folder, variant=name, device=device).replay_golden_rows() for name in fitting}
    if json:
        output.answer_json({"package": found.name, "digest": found.digest, "files": len(found.manifest.files), "golden_rows": differences})
        return
    typer.echo(f"{found.name}: {len(found.manifest.files)} files are as exported; digest {found.digest}.")
    for item in found.manifest.variants:
        if item.name in differences:
            typer.echo(f"{item.name}: golden rows agree (largest difference of a probability {differences[item.name]:.1e}).")
        else:
            typer.echo(f"{item.name}: not run, this host lacks {' or '.join(item.requires.any_cpu_flag) or item.requires.device}.")
    output.next_step(f"{found.folder} is whole.", "bentoml serve")
