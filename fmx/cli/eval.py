"""`fmx eval`: the accuracy of a package on labelled data."""

from __future__ import annotations

from typing import Annotated

import typer

from fmx.cli import output


def evaluate(
    package: Annotated[str, typer.Argument(help="A package's folder or name, or latest.")],
    data: Annotated[str, typer.Option(help="digits, cifar10, or a folder; its test rows are used.")],
    variant: Annotated[str | None, typer.Option(help="fp32 or int8.", show_default="the first that fits this host")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split, where the data have none.", show_default="the run's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a package on the test rows of labelled data, with the variant that this host would serve.

    Example: fmx eval latest --data digits
    """
    from fmx.evaluation import evaluate_package
    from fmx.package import find_package

    result = evaluate_package(find_package(package), data, variant=variant, seed=seed, device=device)
    if json:
        output.answer_json(result)
        return
    rows = [
        ["accuracy", output.interval(result["accuracy"])],
        ["macro F1", f"{result['macro_f1']:.4f}"],
        ["calibration error", f"{result['calibration_error']:.4f}"],
        ["rows", "those that the export was judged on" if result["rows_of_export"] else "not those of the export"],
    ]
    output.table(f"{result['package']} ({result['variant']}) on {result['data']}", ["measure", "value"], rows)
