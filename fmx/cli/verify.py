"""`fmx verify`: is this package what was exported, and does it compute here what it computed there?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output


def verify(
    package: Annotated[str | None, typer.Argument(help="A package's folder or name.", show_default="latest")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    key: Annotated[Path | None, typer.Option(help="Public key that must have signed it, PEM.")] = None,
    chain: Annotated[list[Path] | None, typer.Option(help="Certificate that is trusted, in place of a key; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every file's hash and replay the golden rows on every variant that fits this host.

    Example: fmx verify latest
    """
    from fmx.package import find_package, load_package
    from fmx.predictor import PackagePredictor
    from fmx.runtime import choose_device

    found = load_package(find_package(package))
    if key is not None or chain:
        from fmx.signature import verify_signature

        verify_signature(found.folder, public_key=key, chain=chain or ())
    device = choose_device(device)
    fitting = [item.name for item in found.manifest.variants if found.fits(item, device)]
    differences = {name: PackagePredictor.open(found.folder, variant=name, device=device).replay_golden_rows() for name in fitting}
    if json:
        facts = {"package": found.name, "digest": found.digest, "files": len(found.manifest.files), "signature_checked": bool(key or chain)}
        output.answer_json({**facts, "golden_rows": differences})
        return
    typer.echo(f"{found.name}: {len(found.manifest.files)} files are as exported; digest {found.digest}.")
    if key is not None or chain:
        typer.echo("Its signature holds.")
    for item in found.manifest.variants:
        if item.name in differences:
            typer.echo(f"{item.name}: golden rows agree (largest difference of a probability {differences[item.name]:.1e}).")
        else:
            typer.echo(f"{item.name}: not run, this host lacks {item.requires}.")
    output.next_step(f"{found.folder} is whole.", "bentoml serve")
