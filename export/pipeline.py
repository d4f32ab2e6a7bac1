"""The story of an export: run, rows, pruning, float graph, variants, measurement, verdict, package. `fmx export` and `fmx.export` are this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export import measure
from export.audit import audit_graph
from export.float_graph import draw_float, open_graph
from export.graph import serving_graph
from export.package_writer import Candidate, Recipe, write_package
from export.pruning import prune_run
from export.settings import ExportSettings, check_settings
from export.stages import Stages
from export.subject import Subject, key_of_run, open_subject
from export.target import TARGETS, Target, resolve_targets
from export.variants import Bench, Body, build_body, deadline_of
from export.verdict import Verdict, judge_reference, judge_variant, refuse_or_go_on
from finetune.evaluation import eager_embeddings
from finetune.network import restore_network
from fmx import storage
from fmx.contract import Latency, Requires
from fmx.errors import BudgetError, ExportError
from fmx.package import Package, contract_digest, load_package
from fmx.predictor import EVALUATION_BATCH, Predictor
from fmx.run import Run, find_run, load_run
from fmx.tasks import require_images, require_texts

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
        BudgetError: what was asked for was not reached, and `on_miss` is `fail`. In every case the packages stay as they were.
    """
    settings = check_settings(options)
    say = say or _nothing
    source_run = load_run(find_run(run))
    packages = Path(out) if out else storage.home() / "packages"
    name = storage.check_name(settings.name) if settings.name else storage.next_name(packages, storage.stem_of(source_run.info.model))
    storage.check_free(packages / name, force=settings.force)

    if settings.prune is not None or settings.recover:
        require_images(source_run.info.input, "--prune" if settings.prune is not None else "--recover")
    if settings.embedding:
        require_texts(source_run.info.input, "--embedding")
    stages, deadline = Stages(), deadline_of(settings)
    bench = _open_bench(open_subject(source_run, stages, say, embedding=settings.embedding), settings, stages, deadline, say)
    bodies, refusals = _build_bodies(bench)
    recipe = _recipe(bench, bodies, refusals)
    digest = contract_digest({**bench.contract.model_dump(mode="json"), "recipe": recipe})
    models = {"fp32": serving_graph(bench.graph.body, bench.contract, digest)}
    models |= {body.target.variant: serving_graph(body.model, bench.contract, digest, body.start) for body in bodies}
    candidates = _measure(models, bodies, bench)
    calibration = bench.calibration_rows() if any(body.recipe["method"] == "static" for body in bodies) else None
    package = write_package(packages / name, candidates, bench.subject, Recipe(recipe, digest, calibration), settings)
    storage.point_latest(package)
    return load_package(package)


def targets_of(settings: ExportSettings) -> tuple[str, ...]:
    """Name the targets that get a variant beside fp32."""
    if settings.quantize == "none":
        return ()
    return ("cuda",) if settings.quantize == "fp16" else resolve_targets(settings.target)


def _nothing(line: str) -> None:
    """Say nothing."""


def _build_bodies(bench: Bench) -> tuple[list[Body], dict[str, str]]:
    """Build what was asked for; a variant that cannot be built ends the export, unless fp32 will do too, and is then named with the reason."""
    bodies: list[Body] = []
    refusals: dict[str, str] = {}
    for name in targets_of(bench.settings):
        try:
            bodies.append(build_body(bench, name))
        except ExportError as error:
            if bench.settings.on_miss != "fp32" and bench.settings.quantize != "auto":
                raise
            reason = error.message.partition(":")[0]  # what is behind the colon may hold a path of this machine
            bench.say(f"{TARGETS[name].variant} is left out: {error.message}")
            refusals[TARGETS[name].variant] = reason
    return bodies, refusals


def _open_bench(subject: Subject, settings: ExportSettings, stages: Stages, deadline: float, say: Say) -> Bench:
    """Prune where that is asked for, and draw the float graph; the eager answers stay those of the dense network."""
    dense, pruned_from = None, None
    pruned = _pruned(subject, settings, deadline, say)
    if pruned is not None:
        dense = draw_float(subject.network, subject.key, subject.contract, subject.rows["test"].values, settings.opset, stages).predictor
        subject = replace(subject, network=restore_network(pruned), key=key_of_run(pruned))
        structure = pruned.info.structure or {}
        pruned_from = {**(pruned.info.pruned_from or {}), "pruned_run": pruned.info.name, "structure": structure}
    graph = draw_float(subject.network, subject.key, subject.contract, subject.rows["test"].values, settings.opset, stages)
    if graph.refused:
        say(f"torch's dynamo exporter was not taken: {graph.refused}")
    say(f"Exported with torch.onnx ({graph.exporter}), opset {settings.opset}; parity with the eager model holds at batch sizes 1, 2 and 7.")
    return Bench(subject, graph, dense, settings, stages, say, deadline, pruned_from)


def _pruned(subject: Subject, settings: ExportSettings, deadline: float, say: Say) -> Run | None:
    """Prune; with `--on-miss fp32` a pruning that no budget allows leaves the dense network."""
    if settings.prune is None:
        return None
    try:
        return prune_run(subject, settings, deadline, say)
    except BudgetError as error:
        if settings.on_miss != "fp32":
            raise
        say(f"The dense network is exported: {error.message}")
        return None


def _recipe(bench: Bench, bodies: list[Body], refusals: dict[str, str]) -> dict[str, Any]:
    graph = {"exporter": bench.graph.exporter, "opset": bench.settings.opset, "other_exporter_refused": bench.graph.refused or None}
    variants: dict[str, Any] = {body.target.variant: body.recipe for body in bodies}
    variants |= {name: {"refused": reason} for name, reason in refusals.items()}
    return {"pruning": bench.pruned_from, "graph": graph, "quantisation": variants or None}


def _measure(models: dict[str, onnx.ModelProto], bodies: list[Body], bench: Bench) -> list[Candidate]:
    """Measure every variant and order them: the accepted in the order of their targets, then fp32, then whatever was not accepted."""
    settings, test, eager = bench.settings, bench.subject.rows["test"], bench.subject.eager["test"]
    targets = {body.target.variant: body.target for body in bodies}
    predictors = {name: _opened(model, targets.get(name), bench) for name, model in models.items()}
    measured, verdicts = {}, {}
    embeddings, cosines = _embeddings(predictors, bench)
    for name, predictor in predictors.items():
        answers = predictor.run_all(test.values)
        measured[name] = measure.measure_answers(answers, eager, test, bench.contract.labels, (*measure.PARITY_BATCHES, EVALUATION_BATCH))
    timed = {name: predictor for name, predictor in predictors.items() if name == "fp32" or targets[name].is_here}
    if bench.dense is not None:
        timed["dense"] = bench.dense
    batches = tuple(sorted({*measure.LATENCY_BATCHES, settings.batch}))
    latency = measure.measure_latency(timed, test.values, batches, "dense" if bench.dense is not None else "fp32")
    for name, model in models.items():
        given: tuple[Latency, ...] = latency.get(name, ())
        if name == "fp32":
            verdicts[name] = judge_reference(measured[name], given, model.ByteSize(), settings, pruned=bench.dense is not None)
        else:
            dependent = measure.dependence_on_batch(predictors[name], test.values)
            device = targets[name].requires.device
            judged = judge_variant(measured[name], given, latency["fp32"], model.ByteSize(), settings, device)
            verdicts[name] = Verdict(False, dependent) if dependent else judged
    refuse_or_go_on(verdicts, settings)
    order = sorted(models, key=lambda name: _place(name, verdicts))
    trials = {body.target.variant: body.trials for body in bodies}
    return [
        Candidate(
            name=name,
            model=models[name],
            measured=measured[name],
            embedding_cosine=cosines.get(name),
            embeddings=embeddings.get(name),
            latency=latency.get(name, ()),
            requires=targets[name].requires if name in targets else Requires(),
            providers=(targets[name] if name in targets else TARGETS["generic"]).providers,
            why=verdicts[name].why,
            exact=name in targets and not targets[name].is_here,
            audit=audit_graph(models[name]),
            trials=trials.get(name, []),
        )
        for name in order
    ]


def _embeddings(predictors: dict[str, Predictor], bench: Bench) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Give every variant's embeddings of the test rows, and their least cosine to the eager network's; nothing where there are none.

    Raises:
        ExportError: the float graph computes others.
    """
    if bench.contract.embedding is None:
        return {}, {}
    test = bench.subject.rows["test"]
    eager = eager_embeddings(bench.subject.network, test)
    vectors = {name: predictor.embed_all(test.values) for name, predictor in predictors.items()}
    found = {name: measure.embedding_cosine(own, eager) for name, own in vectors.items()}
    if found["fp32"] < measure.LEAST_COSINE:
        raise ExportError(f"The exported graph embeds a text otherwise than the model (cosine {found['fp32']:.4f}).", hint=measure.NOTHING_WRITTEN)
    return vectors, found


def _opened(model: onnx.ModelProto, target: Target | None, bench: Bench) -> Predictor:
    return open_graph(model, bench.contract, exact=target is not None and not target.is_here)


def _place(name: str, verdicts: dict[str, Verdict]) -> int:
    """Sort accepted variants before fp32 and others behind it."""
    return 1 if name == "fp32" else 0 if verdicts[name].accepted else 2
