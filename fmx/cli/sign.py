"""`fmx sign`: sign a package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output


def sign(
    key: Annotated[Path, typer.Option(help="Private elliptic-curve key, PEM.")],
    package: Annotated[str | None, typer.Argument(help="A package's folder or name.", show_default="latest")] = None,
    certificate: Annotated[Path | None, typer.Option(help="The key's certificate, PEM.")] = None,
    chain: Annotated[list[Path] | None, typer.Option(help="A further certificate up to the root; may be repeated.")] = None,
) -> None:
    """Sign a package with a key, or with a key and its certificate, through the model-signing library.

    Example: fmx sign latest --key key.pem
    """
    from fmx.errors import UsageError
    from fmx.package import find_package
    from fmx.signature import sign_package

    if chain and certificate is None:
        raise UsageError("--chain is of a certificate.", hint="Give --certificate too, or leave it out.")
    folder = find_package(package)
    made = sign_package(folder, key, certificate=certificate, chain=chain or ())
    output.next_step(f"Left {made}.", f"fmx verify {folder.name} --key PUBLIC.pem")
