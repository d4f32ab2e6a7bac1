"""The story of an export: run, rows, graph, parity, int8, measurement, verdict, package. `fmx export` and `fmx.export` are this function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export import measure, quantize, rewrite
from export.calibration import choose_rows
from export.graph import export_body, serving_graph
from export.package_writer import Candidate, Recipe, write_package
from export.settings import ExportSettings, check_settings
from export.subject import Subject, open_subject
from export.verdict import judge_int8, refuse_or_go_on
from fmx import storage
from fmx.contract import ModelContract, Requires
from fmx.host import VNNI_FLAGS, has_vnni, usable_cpus
from fmx.package import Package, contract_digest, load_package
from fmx.predictor import Predictor
from fmx.run import find_run, load_run

Say = Callable[[str], None]


def export_package(run: str | Path | None = None, *, out: Path | str | None = None, say: Say | None = None, **options: Any) -> Package:
    """Export a run as a model package and make it the latest.

    Args:
        run: a folder, a name, or None for the latest.
        out: the folder of packages; default `packages/` in `FMX_HOME`.
        say: called with lines for a person; default silent.
        options: the fields of `ExportSettings`.

    Raises:
        UsageError, DataError, ExportError, PackageError: see `fmx.errors`.
        BudgetError: int8 missed its budget or is not faster, and `on_miss` is `fail`. In every case the packages stay as they were.
    """
    settings = check_settings(options)
    say = say or _nothing
    source_run = load_run(find_run(run))
    packages = Path(out) if out else storage.home() / "packages"
    name = storage.check_name(settings.name) if settings.name else storage.next_name(packages, source_run.info.model)
    storage.check_free(packages / name, force=settings.force)

    subject = open_subject(source_run, say)
    recipe = _recipe(settings, subject)
    digest = contract_digest({**subject.contract.model_dump(mode="json"), "recipe": recipe})
    body = export_body(subject.network, subject.contract.input, settings.opset)
    pooled = rewrite.pool_reduced_maps(body)
    say(f"Exported with torch.onnx, opset {settings.opset}" + (f"; {pooled} mean reductions written as pooling." if pooled else "."))

    models = {"fp32": serving_graph(body, subject.contract, digest)}
    predictors = {"fp32": _predictor(models["fp32"], subject.contract)}
    measure.check_parity(subject.network, predictors["fp32"], subject.rows["test"].images)
    say("Parity with the eager model holds at batch sizes 1, 2 and 7.")
    calibration = choose_rows(subject.rows["train"], settings.calibration_rows, source_run.info.settings["seed"])
    if settings.quantize == "int8":
        say(f"Calibrating int8 on {len(calibration)} training rows.")
        models["int8"] = _int8_graph(body, subject, calibration, digest)
        predictors["int8"] = _predictor(models["int8"], subject.contract)

    candidates = _measure(models, predictors, subject, settings)
    package = write_package(packages / name, candidates, subject, Recipe(recipe, digest, calibration), settings)
    storage.point_latest(package)
    return load_package(package)


def _nothing(line: str) -> None:
    """Say nothing."""


def _recipe(settings: ExportSettings, subject: Subject) -> dict[str, Any]:
    if settings.quantize == "none":
        return {"pruning": None, "quantisation": None, "opset": settings.opset}
    exact = quantize.input_quantisation(subject.contract.input) is not None
    quantisation = {**quantize.RECIPE, "calibration_rows": settings.calibration_rows, "raw_rows_are_the_quantised_input": exact}
    return {"pruning": None, "quantisation": quantisation, "opset": settings.opset}


def _int8_graph(body: onnx.ModelProto, subject: Subject, calibration: np.ndarray, digest: str) -> onnx.ModelProto:
    spec = subject.contract.input
    quantised = quantize.quantize_body(body, subject.rows["train"].images[calibration], spec)
    exact = quantize.input_quantisation(spec) is not None
    return serving_graph(quantised, subject.contract, digest, rows_are_quantised=exact)


def _predictor(model: onnx.ModelProto, contract: ModelContract) -> Predictor:
    return Predictor(model.SerializeToString(), contract, threads=usable_cpus())


def _measure(models: dict[str, onnx.ModelProto], predictors: dict[str, Predictor], subject: Subject, settings: ExportSettings) -> list[Candidate]:
    """Measure every variant and order them: an accepted int8 first, then fp32, then whatever was not accepted."""
    test = subject.rows["test"]
    measured = {
        name: measure.measure_variant(predictor, test.images, test.labels, subject.eager, f"evaluating {name}")
        for name, predictor in predictors.items()
    }
    batches = tuple(sorted({*measure.LATENCY_BATCHES, settings.batch}))
    latency = measure.measure_latency(predictors, test.images, batches)
    fp32 = Candidate("fp32", models["fp32"], measured["fp32"], latency["fp32"], Requires(), "The reference, and what any CPU can run.")
    if "int8" not in models:
        return [fp32]
    verdict = judge_int8(measured["int8"], latency["int8"], settings)
    refuse_or_go_on(verdict, settings)
    requires = Requires(any_cpu_flag=VNNI_FLAGS if has_vnni() else ())
    int8 = Candidate("int8", models["int8"], measured["int8"], latency["int8"], requires, verdict.why)
    return [int8, fp32] if verdict.accepted else [fp32, int8]
