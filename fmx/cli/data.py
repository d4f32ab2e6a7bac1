"""`fmx data`: labelled data looked at before they are trained on, and unlabelled images chosen to be labelled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmx import storage
from fmx.cli import output
from fmx.cli.signals import loading
from fmx.errors import DataError

if TYPE_CHECKING:
    from fmx.data.check import DataCheck

app = typer.Typer(no_args_is_help=True, help="Check labelled data, and choose what to label next.")

CLASSES_SHOWN = 40


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="digits, cifar10, hf:NAME, torchvision:NAME, or a folder, manifest or .tar shards.")],
    split_seed: Annotated[int, typer.Option(help="Of the split, where the data have none.")] = 0,
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
    checked = check_source(open_source(source, split_seed, group_by), near=near)
    if json:
        output.answer_json(checked.as_json())
    else:
        _print(checked)
    if checked.errors:
        raise DataError(
            f"{source}: training would be misled: {'; '.join(found.message for found in checked.errors)}.",
            hint="The advice beside each finding says what to do.",
        )


@app.command()
def select(
    run: Annotated[str, typer.Argument(help="A run's folder or name.")],
    pool: Annotated[Path, typer.Option(help="A folder of images without labels.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many to label next.")] = 20,
    copy_to: Annotated[Path | None, typer.Option(help="Also copy them into this folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose the images whose labels would teach most: those that the run is unsure of and that differ from each other.

    Example: fmx data select resnet18-1 --pool unlabelled/ -n 50 --copy-to to-label/
    """
    from fmx.run import find_run, load_run

    found = load_run(find_run(run))
    with loading("train", "Selecting images"):
        from finetune.selection import select_images
    chosen = select_images(found, pool, count, device)
    if copy_to is not None:
        for number, (name, _) in enumerate(chosen, start=1):
            storage.write_bytes(copy_to / f"{number:04d}-{Path(name).name}", (pool / name).read_bytes())
    if json:
        output.answer_json([{"file": name, "entropy": entropy} for name, entropy in chosen])
        return
    output.table(f"To label next, by {found.info.name}", ["file", "entropy"], [[name, f"{entropy:.3f}"] for name, entropy in chosen])
    if copy_to is not None:
        typer.echo(f"Left {len(chosen)} copies in {copy_to}.")


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
