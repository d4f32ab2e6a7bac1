"""`fmx compare`: is the new package as good as the old one?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fmx.cli import output


def compare(
    old: Annotated[str, typer.Argument(help="A package's folder or name.")],
    new: Annotated[str, typer.Argument(help="Another's.")],
    data: Annotated[str, typer.Option(help="As for fmx train; the test rows are used.")],
    max_drop: Annotated[float, typer.Option(min=0, help="Most points of accuracy, F1 or correlation that may be lost.")] = 0.5,
    max_slower: Annotated[float, typer.Option(min=0, help="Most percent that a row may take longer.")] = 10.0,
    max_larger: Annotated[float, typer.Option(min=0, help="Most percent that the file may grow.")] = 10.0,
    variant: Annotated[str | None, typer.Option(help="Of both.", show_default="the first that fits this host")] = None,
    text_column: Annotated[str | None, typer.Option(help="Of a table of texts.", show_default="as trained, or guessed")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of a table of texts.", show_default="as trained, or guessed")] = None,
    pair_column: Annotated[str | None, typer.Option(help="The second text's, of a table of pairs.", show_default="as trained, or guessed")] = None,
    query_column: Annotated[str | None, typer.Option(help="What candidates of one query share.", show_default="as trained, or guessed")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two packages on the same rows; exit 5 when accuracy, latency, size or the contract got worse.

    Example: fmx compare mine-1 mine-2 --data photos/
    """
    from fmx.comparison import Limits, compare_packages
    from fmx.data import Columns
    from fmx.package import find_package

    limits = Limits(max_drop, max_slower, max_larger)
    columns = Columns(text_column, label_column, pair_column, query_column)
    compared = compare_packages(find_package(old), find_package(new), data, limits, variant=variant, device=device, columns=columns)
    if json:
        output.answer_json(compared.facts)
    else:
        if "old" in compared.facts:
            _show(compared.facts)
        for sentence in compared.worse or ("Nothing got worse than allowed.",):
            typer.echo(sentence)
    if compared.worse:
        raise typer.Exit(5)


def _show(facts: dict[str, Any]) -> None:
    sides = [facts["old"], facts["new"]]
    has_f1, has_scores = "f1" in sides[0], "pearson" in sides[0]
    rows = [
        ["package", *(f"{side['package']} ({side['variant']})" for side in sides)],
        *([["F1", *(output.percent(side["f1"]) for side in sides)]] if has_f1 else []),
        *([["correlation", *(f"{side['pearson']:.4f}" for side in sides)]] if has_scores else []),
        ["wholly right" if has_f1 else "likeliest grade right" if has_scores else "accuracy", *(output.interval(side["accuracy"]) for side in sides)],
        ["median at batch 1", *(f"{side['median_ms']:.2f} ms" for side in sides)],
        ["size", *(f"{side['bytes'] / 1e6:.2f} MB" for side in sides)],
    ]
    output.table(f"On {facts['data']}", ["measure", "old", "new"], rows)
    typer.echo(
        f"Drop {facts['drop']:.2f} points (95 %: {facts['drop_low']:.2f} to {facts['drop_high']:.2f}; McNemar p {facts['p_value']:.3f}); "
        f"{output.percent(facts['changed'])} of the answers changed."
    )
