"""`fmx eval`: a run or a package on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading


def evaluate(
    model: Annotated[str, typer.Argument(metavar="RUN|PACKAGE", help="A folder or name; latest is the latest package.")],
    data: Annotated[str, typer.Option(help="As for fmx train; the test rows are used.")],
    variant: Annotated[str | None, typer.Option(help="Of a package: fp32 or int8.", show_default="the first that fits this host")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Of the split, where the data have none.", show_default="the run's")] = None,
    group_by: Annotated[str | None, typer.Option(help="As for fmx train.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Of a table of texts.", show_default="the run's, or guessed")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of a table of texts.", show_default="the run's, or guessed")] = None,
    pair_column: Annotated[str | None, typer.Option(help="The second text's, of a table of pairs.", show_default="the run's, or guessed")] = None,
    query_column: Annotated[str | None, typer.Option(help="What candidates of one query share.", show_default="the run's, or guessed")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    report: Annotated[Path | None, typer.Option(help="Also write an HTML page with confusion matrix and mistakes.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a run, or a package with the variant that this host would serve, on the test rows of labelled data.

    Example: fmx eval latest --data digits
    """
    from fmx import storage
    from fmx.cli.models import find_model
    from fmx.data import Columns
    from fmx.evaluation import evaluate_package
    from fmx.run import Run

    found = find_model(model)
    columns = Columns(text_column, label_column, pair_column, query_column)
    if isinstance(found, Run):
        with loading("train", "Evaluating a run"):
            from finetune.device import choose_device
            from finetune.evaluation import evaluate_run

        result = evaluate_run(found, data, choose_device(device), split_seed=split_seed, group_by=group_by, columns=columns)
    else:
        result = evaluate_package(found, data, variant=variant, split_seed=split_seed, group_by=group_by, columns=columns, device=device)
    if report is not None:
        storage.write_text(report, result.report())
    facts = result.facts
    if json:
        output.answer_json(facts)
        return
    same = facts.get("rows_of_export", facts.get("rows_of_run"))
    of = "units of texts" if "entities" in facts else "rows"
    rows = [*output.several(facts.get("labels")), *output.scores(facts.get("scores")), *output.entities(facts.get("entities"))]
    rows.append(["likeliest grade right" if "scores" in facts else "accuracy", output.interval(facts["accuracy"], of)])
    if "top5_accuracy" in facts:
        rows.append(["top-5 accuracy", output.interval(facts["top5_accuracy"])])
    rows += output.ranking(facts.get("ranking"))
    rows += [
        ["macro F1", f"{facts['macro_f1']:.4f}"],
        ["calibration error", f"{facts['calibration_error']:.4f}"],
        ["worst class", _worst(facts["classes"])],
        ["rows", "those that it was judged on before" if same else "others than it was judged on before"],
    ]
    name = f"{facts['package']} ({facts['variant']})" if facts.get("package") else facts["run"]
    output.table(f"{name} on {facts['data']}", ["measure", "value"], rows)
    if report is not None:
        typer.echo(f"Left {report}.")


def _worst(classes: list[dict[str, float | int | str]]) -> str:
    present = [row for row in classes if row["rows"]]
    worst = min(present, key=lambda row: float(row["recall"]))
    return f"{worst['label']}: recall {float(worst['recall']):.2%} of {worst['rows']} rows"
