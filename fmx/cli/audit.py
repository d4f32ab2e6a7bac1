"""`fmx audit`: the service's audit log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading

app = typer.Typer(no_args_is_help=True, help="Verify the service's audit log (FMX_AUDIT_FILE).")


@app.command()
def verify(
    files: Annotated[list[Path], typer.Argument(help="The log, or its parts in their order.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify that no line of an audit log was changed, taken out or put in; exit code 3 where one was.

    The last hash is worth keeping elsewhere: who can write the file could write all of it anew.

    Example: fmx audit verify audit.jsonl.1 audit.jsonl
    """
    with loading("serve", "The audit log"):
        from serve.audit import verify_audit
    found = verify_audit(files)
    if json:
        output.answer_json(asdict(found))
        return
    whole = "from the first of all" if found.begins == "0" * 64 else f"going on from {found.begins[:12]}"
    typer.echo(f"{found.entries:,} entries from {found.first} to {found.last}, {whole}: the chain holds. Last hash {found.ends}.")
