"""`fmx data`: labelled data looked at before they are trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fmx.cli import output
from fmx.errors import DataError

if TYPE_CHECKING:
    from fmx.data.check import DataCheck

app = typer.Typer(no_args_is_help=True, help="Check labelled data before they are trained on.")

CLASSES_SHOWN = 40


@app.callback()
def options() -> None:
    """Keep `check` a sub-command while it is the only one."""


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="digits, cifar10, hf:NAME, torchvision:NAME, or a folder, manifest or .tar shards.")],
    seed: Annotated[int, typer.Option(help="Of the split, where the data have none.")] = 0,
    group_by: Annotated[
        str | None, typer.Option(help="What keeps rows in one split: a manifest's column, or a regular expression on the file name.")
    ] = None,
    near: Annotated[bool, typer.Option("--near/--no-near", help="Look for near duplicates: re-encoded or resized copies.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    r"""Read every image and report damaged files, copies within and across splits and labels, and what is odd; exits with 3 on an error.

    Example: fmx data check photos/ --group-by 'patient(\d+)_'
    """
    from fmx.data import open_source, torchvision
    from fmx.data.check import check_source

    if source.startswith(torchvision.PREFIX):
        from finetune.downloads import ensure_downloaded

        ensure_downloaded(source)
    checked = check_source(open_source(source, seed, group_by), near=near)
    if json:
        output.answer_json(checked.as_json())
    else:
        _print(checked)
    if checked.errors:
        raise DataError(
            f"{source}: training would be misled: {'; '.join(found.message for found in checked.errors)}.",
            hint="The advice beside each finding says what to do.",
        )


def _print(checked: DataCheck) -> None:
    from rich.markup import escape

    splits = list(checked.counts)
    rows = [[escape(label), *(f"{checked.counts[split][i]:,}" for split in splits)] for i, label in enumerate(checked.labels)]
    hidden = len(rows) - CLASSES_SHOWN
    shown = [*rows[:CLASSES_SHOWN], [f"... {hidden} more", *("" for _ in splits)]] if hidden > 0 else rows
    total = ["all", *(f"{sum(checked.counts[split]):,}" for split in splits)]
    output.table(escape(f"Classes of {checked.source}"), ["class", *splits], [*shown, total])
    output.table("Formats", ["format", "files"], [[name, f"{count:,}"] for name, count in checked.formats.items()])
    spreads = [[name.replace("_", " "), *(f"{value:,}" for value in (one.least, one.median, one.most))] for name, one in checked.spreads.items()]
    output.table("Sizes", ["", "least", "median", "most"], spreads)
    for note in checked.notes:
        typer.echo(note)
    for found in checked.findings:
        typer.echo(f"\n{found.severity}: {found.message} [{found.kind}]\n  {found.advice}")
        for example in found.examples:
            typer.echo(f"    {example}")
        if found.count > len(found.examples):
            typer.echo(f"    ... {found.count - len(found.examples):,} more")
    if not checked.findings:
        typer.echo("\nNothing was found.")
    if not checked.errors:
        output.next_step("\nNothing stands against training.", f"fmx train --data {checked.source}")
