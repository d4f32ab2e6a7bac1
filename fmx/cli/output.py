"""What commands print: lines for a person on standard error while they work, the answer on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

PIPE_WIDTH = 10_000
"""More characters than any table has, so that none is cut for a screen that is not there."""

LONGEST_UNBROKEN = 24
"""Characters up to which the cells of a column are never broken over lines."""


def say(line: str) -> None:
    """Tell a person what is being done, on standard error."""
    typer.echo(line, err=True)


def silent(line: str) -> None:
    """Take a line and say nothing."""


def answer_json(content: Any) -> None:
    """Print the answer for a program: one JSON document on standard output."""
    json.dump(content, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on standard output; the first column is text, the others are figures.

    Nothing is cut: a pipe gets every column as wide as it is. On a terminal that is too narrow long cells (paths) go on below, and what
    is wider still the terminal breaks.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH, markup=False)
    drawn = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        is_short = all(len(row[i]) <= LONGEST_UNBROKEN for row in rows)
        drawn.add_column(column, justify="left" if i == 0 else "right", overflow="fold", no_wrap=is_short)
    widest = [max(len(cells[i]) for cells in (columns, *rows)) for i in range(len(columns))]
    console.width = max(console.width, 1 + sum(3 + min(width, LONGEST_UNBROKEN) for width in widest))  # a column's two spaces and a line
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)


def ranking(measures: dict[str, Any] | None, whose: str = "") -> list[list[str]]:
    """Give the lines of a table that say how candidates were ranked; none where none were."""
    if measures is None:
        return []
    lines = {"MRR": "mrr", f"NDCG@{measures['cut']}": "ndcg", f"recall@{measures['cut']}": "recall"}
    queries = "" if whose else f" ({measures['queries']} queries, {measures['candidates']:.1f} candidates each)"
    return [[f"{name}{whose}", f"{measures[key]:.4f}{queries}"] for name, key in lines.items()]


def entities(measures: dict[str, Any] | None, baselines: dict[str, float] | None = None) -> list[list[str]]:
    """Give the lines of a table that say how entities were found; none where none were looked for."""
    if measures is None:
        return []
    shares = [[f"entities' {name}", percent(measures[name.lower()])] for name in ("precision", "recall")]
    best = [["... of TF-IDF with logistic regression", percent(baselines["tfidf"])]] if baselines else []
    kinds = [[f"... of {one['label']}", f"{percent(one['f1'])} ({one['entities']} there, {one['found']} found)"] for one in measures["kinds"]]
    return [["entities' F1", f"{percent(measures['f1'])} ({measures['entities']} there, {measures['found']} found)"], *best, *kinds, *shares]


def several(measures: dict[str, Any] | None, baselines: dict[str, float] | None = None) -> list[list[str]]:
    """Give the lines of a table that say how several labels a row were told; none where there is one."""
    if measures is None:
        return []
    best = [["... of TF-IDF with logistic regression", percent(baselines["tfidf"])]] if baselines else []
    shares = [[f"labels' {name}", percent(measures[name])] for name in ("precision", "recall")]
    return [["labels' F1", f"{percent(measures['f1'])} ({measures['there']} there, {measures['said']} said)"], *best, *shares]


def scores(measures: dict[str, Any] | None, baselines: dict[str, float] | None = None) -> list[list[str]]:
    """Give the lines of a table that say how near scores came to the true ones; none where there are none."""
    if measures is None:
        return []
    best = [["... of TF-IDF with ridge regression", f"{baselines['tfidf']:.4f}"]] if baselines else []
    return [
        ["Pearson's correlation", f"{measures['pearson']:.4f} ({measures['rows']} rows)"],
        *best,
        ["Spearman's correlation", f"{measures['spearman']:.4f}"],
        ["mean absolute error", f"{measures['mean_absolute_error']:.4g}"],
        ["root mean squared error", f"{measures['root_mean_squared_error']:.4g}"],
    ]


def judged(metrics: dict[str, Any]) -> tuple[str, float]:
    """Give the name and value of what a run's epochs are judged by: accuracy, or the F1 or correlation that stands beside it."""
    for name, key, measure in (("entities' F1", "entities", "f1"), ("labels' F1", "labels", "f1"), ("correlation", "scores", "pearson")):
        if key in metrics:
            return name, float(metrics[key][measure])
    return "accuracy", float(metrics["accuracy"]["value"])


def interval(share: dict[str, Any], of: str = "rows") -> str:
    """Write a measured share with its 95 % interval and the number of rows, or of what else it is."""
    return f"{percent(share['value'])} (95 %: {100 * share['low']:.2f} to {100 * share['high']:.2f}, {share['n']} {of})"


def next_step(left: str, command: str) -> None:
    """End a command: what it left, and the command that usually follows."""
    typer.echo(f"{left}\nNext: {command}")


def percent(share: float) -> str:
    """Write a share as a percentage with two places."""
    return f"{100 * share:.2f} %"
