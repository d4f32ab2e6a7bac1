"""`fmx keys`: API keys of the service."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke the service's API keys (FMX_KEYS_FILE, or .fmx/keys.json).")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _file() -> Path:
    from serve.settings import default_keys_file

    return Path(os.environ.get("FMX_KEYS_FILE") or default_keys_file())


@app.command()
def create(name: Annotated[str, typer.Argument(help="Whose key it is.")], json: Json = False) -> None:
    """Create a key and show it once; only its hash is kept.

    Example: fmx keys create web-shop --json
    """
    from serve.keys import create_key

    key, text = create_key(_file(), name)
    if json:
        output.answer_json({"id": key.id, "key": text})
        return
    typer.echo(f"Key {key.id} for {key.name}, shown this once:\n\n    {text}\n")
    output.next_step(f"Its hash is in {_file()}; a running service knows it within a second.", "curl -H 'Authorization: Bearer KEY' ...")


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List the keys, without their secrets.

    Example: fmx keys list
    """
    from serve.keys import read_keys

    keys = read_keys(_file())
    if json:
        output.answer_json([{name: value for name, value in asdict(key).items() if name != "sha256"} for key in keys])
        return
    output.table(f"Keys in {_file()}", ["id", "name", "created", "revoked"], [[key.id, key.name, key.created, key.revoked or ""] for key in keys])


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="A key's id or name.")], json: Json = False) -> None:
    """Revoke a key; a running service refuses it within a second.

    Example: fmx keys revoke web-shop
    """
    from serve.keys import revoke_key

    revoked = revoke_key(_file(), key)
    if json:
        output.answer_json({"id": revoked.id, "name": revoked.name, "revoked": revoked.revoked})
        return
    output.next_step(f"Key {revoked.id} ({revoked.name}) is revoked.", "fmx keys list")
