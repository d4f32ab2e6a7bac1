"""The story of an export: run, rows, graph, parity, int8, measurement, verdict, package. `fmx export` and `fmx.export` are this function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from export import measure, quantize, rewrite
from export.calibration import choose_rows
from export.graph import export_body, serving_graph
from export.package_writer import Candidate, write_package
from export.settings import ExportSettings, check_settings
from export.verdict import judge_int8, refuse_or_go_on
from finetune.evaluation import eager_probabilities
from finetune.network import Network, restore_network
from fmx import storage
from fmx.contract import ModelContract, Requires
from fmx.data import open_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import DataError
from fmx.host import VNNI_FLAGS, has_vnni, usable_cpus
from fmx.package import Package, contract_digest, load_package
from fmx.predictor import Predictor
from fmx.run import Run, find_run, load_run

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Subject:
    """What is exported, and the rows it is judged on."""

    run: Run
    network: Network
    rows: dict[str, Rows]
    contract: ModelContract
    eager: np.ndarray
    """The eager network's probabilities on the test rows: float64 [n, classes]"""


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

    subject = _open_subject(source_run, say)
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
    package = write_package(packages / name, candidates, subject.contract, digest, recipe, source_run, subject.rows, calibration, settings)
    storage.point_latest(package)
    return load_package(package)


def _nothing(line: str) -> None:
    """Say nothing."""


def _open_subject(run: Run, say: Say) -> _Subject:
    info = run.info
    source = open_source(info.settings["data"], info.settings["seed"])
    rows = read_splits(source, info.input)
    for split, expected in info.rows.items():
        if rows[split].fingerprint != expected:
            raise DataError(
                f"The {split} rows of {source.name} are not those that {info.name} was trained with.",
                hint="Bring the data back as they were, or train again with: fmx train",
            )
    network = restore_network(run)
    eager = eager_probabilities(network, rows["test"], torch.device("cpu"))
    say(f"{info.name}: {info.model}, {len(info.labels)} classes, judged on {len(rows['test'])} test rows.")
    return _Subject(run, network, rows, ModelContract(task=info.task, labels=info.labels, input=info.input), eager)


def _recipe(settings: ExportSettings, subject: _Subject) -> dict[str, Any]:
    if settings.quantize == "none":
        return {"pruning": None, "quantisation": None, "opset": settings.opset}
    exact = quantize.input_quantisation(subject.contract.input) is not None
    quantisation = {**quantize.RECIPE, "calibration_rows": settings.calibration_rows, "raw_rows_are_the_quantised_input": exact}
    return {"pruning": None, "quantisation": quantisation, "opset": settings.opset}


def _int8_graph(body: onnx.ModelProto, subject: _Subject, calibration: np.ndarray, digest: str) -> onnx.ModelProto:
    spec = subject.contract.input
    quantised = quantize.quantize_body(body, subject.rows["train"].images[calibration], spec)
    exact = quantize.input_quantisation(spec) is not None
    return serving_graph(quantised, subject.contract, digest, rows_are_quantised=exact)


def _predictor(model: onnx.ModelProto, contract: ModelContract) -> Predictor:
    return Predictor(model.SerializeToString(), contract, threads=usable_cpus())


def _measure(models: dict[str, onnx.ModelProto], predictors: dict[str, Predictor], subject: _Subject, settings: ExportSettings) -> list[Candidate]:
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
