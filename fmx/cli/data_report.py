"""What `fmx data check` prints for a person: tables of what the data hold, then what was found, the gravest first."""

from __future__ import annotations

import typer

from fmx.cli import output
from fmx.data.check import Checked, DataCheck, Finding, TextCheck

CLASSES_SHOWN = 40
NAMES_SHOWN = 12
"""Of scripts and languages."""


def print_check(checked: Checked, train_command: str) -> None:
    """Print a check.

    Args:
        checked: what was found.
        train_command: the command that usually follows.
    """
    _print_classes(checked)
    if isinstance(checked, DataCheck):
        _print_files(checked)
    if isinstance(checked, TextCheck):
        _print_texts(checked)
    for note in checked.notes:
        typer.echo(note)
    for found in checked.findings:
        _print_finding(found)
    if not checked.findings:
        typer.echo("\nNothing was found.")
    if not checked.errors:
        output.next_step("\nNothing stands against training.", train_command)


def _print_classes(checked: Checked) -> None:
    from rich.markup import escape

    splits = list(checked.counts)
    rows = [[escape(label), *(f"{checked.counts[split][i]:,}" for split in splits)] for i, label in enumerate(checked.labels)]
    hidden = len(rows) - CLASSES_SHOWN
    shown = [*rows[:CLASSES_SHOWN], [f"... {hidden} more", *("" for _ in splits)]] if hidden > 0 else rows
    total = ["all rows", *(f"{checked.rows[split]:,}" for split in splits)]
    output.table(escape(f"Classes of {checked.source}"), ["class", *splits], [*shown, total])


def _print_files(checked: DataCheck) -> None:
    output.table("Formats", ["format", "files"], [[name, f"{count:,}"] for name, count in checked.formats.items()])
    spreads = [[name.replace("_", " "), *(f"{value:,}" for value in (one.least, one.median, one.most))] for name, one in checked.spreads.items()]
    output.table("Sizes", ["", "least", "median", "most"], spreads)


def _print_texts(checked: TextCheck) -> None:
    if lengths := checked.lengths:
        columns, row = ["", "least", "median", "95 %", "most"], [f"{value:,}" for value in (lengths.least, lengths.median, lengths.p95, lengths.most)]
        if lengths.longer_share is not None:
            columns, row = [*columns, f"over {lengths.max_length:,}"], [*row, output.percent(lengths.longer_share)]
        output.table("Lengths", columns, [[lengths.unit, *row]])
    _print_shares("Scripts, by letters", "script", checked.scripts)
    if checked.languages:
        _print_shares("Languages, by texts", "language", checked.languages)


def _print_shares(title: str, what: str, by_split: dict[str, dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for shares in by_split.values() for name in shares))
    rows = [[name, *(output.percent(shares.get(name, 0.0)) for shares in by_split.values())] for name in names[:NAMES_SHOWN]]
    rest = [[f"... {len(names) - NAMES_SHOWN} more", *("" for _ in by_split)]] if len(names) > NAMES_SHOWN else []
    output.table(title, [what, *by_split], rows + rest)


def _print_finding(found: Finding) -> None:
    typer.echo(f"\n{found.severity}: {found.message} [{found.kind}]\n  {found.advice}")
    for example in found.examples:
        typer.echo(f"    {example}")
    if found.count > len(found.examples):
        typer.echo(f"    ... {found.count - len(found.examples):,} more")
