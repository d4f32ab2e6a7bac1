"""`fmx keys`: API keys of the service."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fmx.cli import output
from fmx.cli.signals import loading

app = typer.Typer(no_args_is_help=True, help="Create, list, rotate and revoke the service's API keys (FMX_KEYS_FILE, or .fmx/keys.json).")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _store() -> tuple[Any, Path]:
    """Give the module of the key file, and the file."""
    with loading("serve", "Keys"):
        from serve.access import keys
        from serve.settings import default_keys_file
    return keys, Path(os.environ.get("FMX_KEYS_FILE") or default_keys_file())


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="What for: predict, metrics or admin (reloads); may be repeated.", show_default="predict")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="A span such as 90d or 12h, or a date.", show_default="never")] = None,
    rate: Annotated[str | None, typer.Option(help="Most requests in a time, such as 10/second.", show_default="no limit")] = None,
    quota: Annotated[int | None, typer.Option(help="Most requests a day.", show_default="no limit")] = None,
    json: Json = False,
) -> None:
    """Create a key and show it once; only its hash is kept.

    Example: fmx keys create web-shop --expires 90d --rate 20/second
    """
    store, path = _store()
    key, text = store.create_key(path, name, scopes=tuple(scope or ("predict",)), expires=expires, rate=rate, quota=quota)
    if json:
        output.answer_json({"id": key.id, "key": text, "scopes": key.scopes, "expires": key.expires, "rate": key.rate, "quota": key.quota})
        return
    ends = f", good until {key.expires}" if key.expires else ""
    typer.echo(f"Key {key.id} for {key.name} ({', '.join(key.scopes)}{ends}), shown this once:\n\n    {text}\n")
    output.next_step(f"Its hash is in {path}; a running service knows it within a second.", "curl -H 'Authorization: Bearer KEY' ...")


@app.command()
def rotate(
    key: Annotated[str, typer.Argument(help="A live key's name or id.")],
    overlap: Annotated[str, typer.Option(help="How long the old key stays good: 24h, 7d, or 0s.")] = "24h",
    json: Json = False,
) -> None:
    """Make a new key with the same name and rights; the old one stays good for a while, so that nobody is cut off.

    Example: fmx keys rotate web-shop --overlap 7d
    """
    store, path = _store()
    new, text, old = store.rotate_key(path, key, overlap)
    if json:
        output.answer_json({"id": new.id, "key": text, "replaces": old.id, "old_expires": old.expires})
        return
    typer.echo(f"Key {new.id} for {new.name}, shown this once:\n\n    {text}\n")
    output.next_step(f"The old key {old.id} is good until {old.expires}.", "fmx keys list")


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List the keys, without their secrets.

    Example: fmx keys list
    """
    store, path = _store()
    keys, used = store.read_keys(path), store.last_uses(path)
    if json:
        entries = [{name: value for name, value in asdict(key).items() if name != "sha256"} | {"last_used": used.get(key.id)} for key in keys]
        output.answer_json(entries)
        return
    heads = ["id", "name", "scopes", "created", "expires", "rate", "a day", "last used", "revoked"]
    rows = [
        [
            key.id,
            key.name,
            ",".join(key.scopes),
            key.created,
            key.expires or "",
            key.rate or "",
            str(key.quota or ""),
            used.get(key.id, ""),
            key.revoked or "",
        ]
        for key in keys
    ]
    output.table(f"Keys in {path}", heads, rows)


@app.command()
def revoke(key: Annotated[str, typer.Argument(help="A key's id, or a name: then all its live keys.")], json: Json = False) -> None:
    """Revoke a key; a running service refuses it within a second.

    Example: fmx keys revoke web-shop
    """
    store, path = _store()
    revoked = store.revoke_key(path, key)
    if json:
        output.answer_json([{"id": item.id, "name": item.name, "revoked": item.revoked} for item in revoked])
        return
    output.next_step(f"Revoked: {', '.join(f'{item.id} ({item.name})' for item in revoked)}.", "fmx keys list")
