"""`fmx inspect`: what a package says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fmx.cli import output

if TYPE_CHECKING:
    from fmx.contract import Input


def inspect(
    package: Annotated[str | None, typer.Argument(help="A package's folder or name.", show_default="latest")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print manifest.json.")] = False,
) -> None:
    """Show a package: variants, input, labels, where it came from. Hashes are checked on the way.

    Example: fmx inspect latest --json
    """
    from fmx.cli.export import show_variants
    from fmx.package import find_package, load_package

    found = load_package(find_package(package))
    manifest = found.manifest
    if json:
        output.answer_json(manifest.model_dump(mode="json"))
        return
    show_variants(found)
    shown = ", ".join(manifest.labels[:12]) + (f" ... ({len(manifest.labels)} in all)" if len(manifest.labels) > 12 else "")
    facts = {
        "package": f"{manifest.name}, version {manifest.version}, {manifest.created}",
        "digest": found.digest,
        "task": manifest.task,
        "labels": shown,
        "input": _input(manifest.input),
        "run": f"{manifest.run['name']}: {manifest.run['model']}, {manifest.run['method']}, {manifest.run['weights_origin']}",
        "rows": ", ".join(f"{name} {rows.rows}" for name, rows in manifest.rows.items()),
        "tools": ", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
    }
    for name, value in facts.items():
        typer.echo(f"{name:<8} {value}")


def _input(spec: Input) -> str:
    if spec.kind == "image":
        return f"uint8 [batch, {spec.height}, {spec.width}, 3] RGB; images are resized by {spec.resize}, {spec.interpolation}"
    return f"int64 [batch, sequence], at most {spec.max_length} token ids of a text, by tokenizer.json"
