"""`fmx tune`: a search for settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading
from fmx.task_names import IMAGES


def tune(
    name: Annotated[str, typer.Argument(help="Of the study; one that exists goes on.")],
    trials: Annotated[int, typer.Option(min=1, help="How many the study shall hold in all.")] = 20,
    search: Annotated[
        list[str] | None, typer.Option(help="What is searched, once a setting.", show_default="lr, weight-decay, label-smoothing, ... by method")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that take trials.")] = 1,
    storage: Annotated[str | None, typer.Option(help="Optuna storage URL.", show_default="a file in the study's folder")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML, TOML or run.json with options of fmx train for every trial; flags win.")] = None,
    task: Annotated[str | None, typer.Option(help="As for fmx train.", show_default="image-classification")] = None,
    data: Annotated[str | None, typer.Option(help="As for fmx train.", show_default="digits")] = None,
    model: Annotated[str | None, typer.Option(help="As for fmx train.", show_default="efficientnet_lite0")] = None,
    method: Annotated[str | None, typer.Option(help="As for fmx train.", show_default="finetune")] = None,
    epochs: Annotated[int | None, typer.Option(help="As for fmx train.", show_default="12")] = None,
    size: Annotated[int | None, typer.Option(help="As for fmx train.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the trainings and of the search.", show_default="0")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of studies.", show_default="studies")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search for settings by validation accuracy; the test rows are not looked at. Bad trials are stopped early.

    Example: fmx tune flowers --data photos/ --trials 30 && fmx train --config studies/flowers/best.toml
    """
    from fmx.settings import read_config

    given = {"task": task, "data": data, "model": model, "method": method, "epochs": epochs, "size": size, "device": device, "seed": seed}
    searched = tuple(one.replace("-", "_") for one in search or ())
    options = {**(read_config(config) if config else {}), **{key: value for key, value in given.items() if value is not None}}
    with loading("train", "Tuning"):
        from finetune.tuning import CONFIG, default_search
        from finetune.tuning import tune as search_settings
    if config is not None:  # a run.json gives every setting; what is searched is not taken from it
        by_default = default_search(str(options.get("method") or "finetune"), str(options.get("task") or IMAGES))
        options = {key: value for key, value in options.items() if key not in (searched or by_default)}
    found = search_settings(name, trials=trials, search=searched, out=out, database=storage, workers=workers, say=output.say, **options)
    if json:
        output.answer_json({"settings": found.settings, "validation_accuracy": found.validation_accuracy, "trials": found.trials})
        return
    rows = [[key, str(value)] for key, value in found.settings.items()]
    finished = sum(trial["state"] == "complete" for trial in found.trials)
    title = f"Best of {len(found.trials)} trials ({finished} ran to the end): validation accuracy {output.percent(found.validation_accuracy)}"
    output.table(title, ["setting", "value"], rows)
    output.next_step(f"Left {found.folder / CONFIG}.", f"fmx train --config {found.folder / CONFIG}")
