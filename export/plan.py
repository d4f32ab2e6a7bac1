"""What an export would do: every stage with whether its result is kept. Nothing is run, and no data are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.exporter import exporters_for
from export.float_graph import key_of_body
from export.pipeline import targets_of
from export.pruning import pruned_folder
from export.settings import ExportSettings, check_settings
from export.stages import Key, Stages, key_of
from export.subject import key_of_answers, key_of_run
from export.target import TARGETS
from export.variants import key_of_ranges, key_of_search
from fmx.run import RUN_FILE, Run, find_run, load_run
from fmx.tasks import require_texts


def planned_stages(run: str | Path | None = None, **options: Any) -> list[dict[str, Any]]:
    """List the stages of an export in order: `stage`, `what` it makes, and whether it is `kept` from before.

    Args:
        run: as for `export_package`.
        options: the fields of `ExportSettings`.
    """
    settings, stages = check_settings(options), Stages()
    found = load_run(find_run(run))
    if settings.embedding:
        require_texts(found.info.input, "--embedding")
    rows = [_row(stages, key_of_answers(found, split), f"the eager model's answers to the {split} rows") for split in ("validation", "test")]
    network = key_of_run(found)
    if settings.prune is not None:
        folder = pruned_folder(found, settings)
        is_there = (folder / RUN_FILE).is_file()
        rows.append({"stage": "pruned", "what": f"pruning and recovery, as run {folder.name}", "kept": is_there})
        network = key_of_run(load_run(folder)) if is_there else Key("pruned", "unknown until it is pruned")
    bodies = [
        Key(f"body-{exporter}", key_of_body(network, settings.opset, embedding=settings.embedding).digest)
        for exporter in exporters_for(settings.opset)
    ]
    body = next((key for key in bodies if stages.has(key)), bodies[0])
    rows.append(_row(stages, body, f"the float graph, opset {settings.opset}"))
    for target in targets_of(settings):
        rows += [_row(stages, key, what) for key, what in _variant_stages(found, settings, body, target)]
    always = "accuracy on the test rows, latency beside fp32, and the package" if settings.quantize != "none" else "accuracy, latency and the package"
    return [*rows, {"stage": "measure", "what": always, "kept": False}]


def _row(stages: Stages, key: Key, what: str) -> dict[str, Any]:
    return {"stage": key.stage, "what": what, "kept": stages.has(key)}


def _variant_stages(run: Run, settings: ExportSettings, body: Key, target: str) -> list[tuple[Key, str]]:
    if TARGETS[target].variant == "fp16":
        return [(key_of("fp16", body), "fp16 weights")]
    ranges = [
        (key_of_ranges(body, run, settings, method), f"{method} ranges of the activations on {settings.calibration_rows} rows")
        for method in ("minmax", "percentile")
    ]
    return [*ranges, (key_of_search(body, run, settings, target), f"the search for {TARGETS[target].variant} within {settings.max_drop:g} points")]
