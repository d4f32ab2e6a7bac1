"""Building the variants of a package from its float graph: int8 for a kind of CPU within the accuracy budget, fp16 for CUDA."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.calibration import HISTOGRAM_ROWS, RangeMethod, Ranges, choose_rows
from export.dynamic import can_be_dynamic, quantize_dynamically
from export.float_graph import NO_DIGEST, FloatGraph, draw_float, open_graph
from export.graph import NORMALISED, serving_graph
from export.half import halve_body
from export.measure import dependence_on_batch, quick_speed_up
from export.quantize import layers_of, prepare_body
from export.search import CHEAP_ROWS, Problem, Search
from export.settings import ExportSettings
from export.stages import Key, Stages, key_of
from export.start import Start, normalised, start_at_raw_rows
from export.subject import Subject, key_of_answers
from export.target import TARGETS, Target
from finetune.quantisation_aware import Rounded, train_rounded
from fmx import host, storage
from fmx.contract import ImageInput, ModelContract
from fmx.errors import ExportError
from fmx.evaluation import drop_of
from fmx.predictor import Predictor
from fmx.run import Run

TEXT_OPERATORS = ("MatMul", "Gemm", "Gather")
"""What of a transformer is quantised: nearly all of its work, and its weights, of which a table of embeddings is often half."""
SEARCH_ROWS = 2000
"""Validation rows on which a search judges, at most."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Body:
    """A variant's body before it is wrapped to serve."""

    target: Target
    model: onnx.ModelProto
    start: Start | None
    recipe: dict[str, Any]
    trials: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """What variants are built from and judged with."""

    subject: Subject
    graph: FloatGraph
    dense: Predictor | None
    """The network before it was pruned."""
    settings: ExportSettings
    stages: Stages
    say: Say
    deadline: float
    pruned_from: dict[str, Any] | None = None
    """How the network was pruned, for the recipe."""

    @property
    def contract(self) -> ModelContract:
        """What callers of the model know."""
        return self.subject.contract

    def calibration_rows(self) -> np.ndarray:
        """Choose the training rows that calibrate: int64 indices."""
        info = self.subject.run.info
        return choose_rows(self.subject.rows["train"], self.settings.calibration_rows, info.settings["seed"])


def key_of_ranges(graph: Key, run: Run, settings: ExportSettings, method: str) -> Key:
    """Give the key of activation ranges: of the graph and of the rows that calibrate it."""
    rows, seed = run.info.rows["train"].sha256, run.info.settings["seed"]
    return key_of(f"ranges-{method}", graph, rows=rows, seed=seed, count=settings.calibration_rows)


def key_of_search(graph: Key, run: Run, settings: ExportSettings, target: str) -> Key:
    """Give the key of an int8 search: of the graph, of the eager answers that it is judged against, and of the host, whose times shape it."""
    rows = {split: run.info.rows[split].sha256 for split in ("train", "validation")}
    names = ("max_drop", "accept", "batch", "calibration_rows", "time_budget", "recover")
    choices = {name: getattr(settings, name) for name in names}
    here = [host.describe(), TARGETS[target].is_here]
    return key_of(f"int8-{target}", graph, key_of_answers(run, "validation"), rows=rows, here=here, seed=run.info.settings["seed"], **choices)


def build_body(bench: Bench, name: str) -> Body:
    """Build a target's variant."""
    target = TARGETS[name]
    if target.variant == "fp16":
        bench.say("Writing fp16.")
        key = key_of("fp16", bench.graph.key)
        return Body(target, bench.stages.model(key, lambda: halve_body(bench.graph.body)), None, {"method": "fp16", "float_inputs_and_outputs": True})
    return _int8(bench, name, target)


def _int8(bench: Bench, name: str, target: Target) -> Body:
    key = key_of_search(bench.graph.key, bench.subject.run, bench.settings, name)
    found: list[Found] = []

    def search() -> Found:
        if not found:
            bench.say(f"Searching {target.variant} on {bench.settings.calibration_rows} calibration rows.")
            found.append(_search_within_budget(bench, target))
        return found[0]

    model = bench.stages.model(key, lambda: search().model)
    facts = bench.stages.facts(key, lambda: search().facts)
    if facts["body"] != _digest(model):  # a kill between the two files, or one of them rebuilt
        bench.stages.forget(key)
        return _int8(bench, name, target)
    if found and found[0].was_cut:  # with more time, or on an idle machine, it would find more
        bench.stages.forget(key)
    start = Start(**facts["start"]) if facts["start"] is not None else None
    return Body(target, model, start, facts["recipe"], facts["trials"])


@dataclass(frozen=True)
class Found:
    """An int8 body with what is kept about it."""

    model: onnx.ModelProto
    facts: dict[str, Any]
    drop: float
    was_cut: bool
    """Whether time ran out."""


def _digest(model: onnx.ModelProto) -> str:
    return storage.sha256_bytes(model.SerializeToString(deterministic=True))


def _search_within_budget(bench: Bench, target: Target) -> Found:
    """Search after training; where that misses the budget and recovery is allowed, train quantisation-aware and search once more."""
    found = _search(bench, target, bench.graph)
    epochs = bench.settings.recover
    if found.drop <= bench.settings.max_drop or not epochs or time.monotonic() > bench.deadline:
        return found
    bench.say(f"int8 loses {found.drop:.2f} points on the validation rows: {epochs} epochs of quantisation-aware training.")
    network = copy.deepcopy(bench.subject.network)
    run, rows = bench.subject.run, bench.subject.rows
    limit = 64 if target.scheme.reduce_range else 127
    calibration = rows["train"].values[bench.calibration_rows()]
    trained = train_rounded(network, run, rows, calibration, epochs, limit, bench.subject.may_flip, bench.say)
    with tempfile.TemporaryDirectory(prefix="fmx-trained-") as folder:
        passing = Stages(Path(folder))  # these belong to weights that are not kept; the search's result is
        graph = draw_float(network, key_of("trained"), bench.contract, rows["test"].values, bench.settings.opset, passing)
        again = _search(replace(bench, stages=passing), target, graph, trained)
    better = min((again, found), key=lambda one: one.drop)
    facts = {**better.facts, "trials": [*found.facts["trials"], *again.facts["trials"]]}
    return Found(better.model, facts, better.drop, found.was_cut or again.was_cut)


class Judge:
    """Judges int8 bodies for a target on validation rows, at most `SEARCH_ROWS` of them, evenly spread."""

    def __init__(self, bench: Bench, target: Target) -> None:
        self._bench, self._target = bench, target
        validation = bench.subject.rows["validation"]
        rows = validation.spread(SEARCH_ROWS)
        self._rows, self.images = validation.taken(rows), validation.values[rows]
        self._reference = bench.subject.eager["validation"][rows]

    def opened(self, body: onnx.ModelProto, start: Start | None) -> Predictor:
        """Open a body as the target would serve it."""
        contract = self._bench.contract
        return open_graph(serving_graph(body, contract, NO_DIGEST, start), contract, exact=not self._target.is_here)

    def drop(self, predictor: Predictor) -> float:
        """Give the points that are lost against the eager model (`fmx.evaluation.drop_of`), or with `--accept strict` the most that may be."""
        point, _, high = drop_of(self._reference, predictor.run_all(self.images), self._rows, self._bench.contract.labels)
        return high if self._bench.settings.accept == "strict" else point

    def speed_up(self, predictor: Predictor) -> float | None:
        """Say how many times as fast as fp32 it is here; None where this host is of another kind."""
        if not self._target.is_here:
            return None
        return quick_speed_up(self._bench.graph.predictor, predictor, self.images, self._bench.settings.batch)


def _spread(rows: int, most: int) -> np.ndarray:
    """Choose at most so many rows, evenly spread, for they lie in the order of their classes: int64 indices."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(int))


def _search(bench: Bench, target: Target, graph: FloatGraph, trained: Rounded | None = None) -> Found:
    """Search a float graph's int8 form.

    Args:
        bench: what is judged with.
        target: the kind of CPU.
        graph: float.
        trained: of a graph that was trained quantisation-aware: the ranges that its layers learnt to live with.
    """
    subject, settings, spec = bench.subject, bench.settings, bench.contract.input
    raw, start = start_at_raw_rows(graph.body, spec) if isinstance(spec, ImageInput) else (graph.body, None)
    prepared = prepare_body(raw)
    judge = Judge(bench, target)

    def feed(rows: np.ndarray) -> np.ndarray:
        if not isinstance(spec, ImageInput):
            return subject.task.feed(rows)
        return start.feed(rows) if start is not None else normalised(rows, spec)

    def ranges(method: RangeMethod, collect: Callable[[], Ranges]) -> Ranges:
        key = key_of_ranges(graph.key, subject.run, settings, method)
        kept = {name: (low, high) for name, (low, high) in bench.stages.facts(key, collect).items()}
        return kept | _ranges_of_layers(prepared, trained)

    calibration = subject.rows["train"].values[bench.calibration_rows()]
    calibration = calibration[subject.task.order(calibration)]  # of texts, so that chunks hold little padding
    problem = Problem(
        prepared,
        start,
        feed,
        calibration,
        cheap=judge.images[_spread(len(judge.images), CHEAP_ROWS)],
        drop=lambda body: judge.drop(judge.opened(body, start)),
        speed_up=lambda body: judge.speed_up(judge.opened(body, start)),
        ranges=ranges,
    )
    scheme = target.scheme if isinstance(spec, ImageInput) else replace(target.scheme, operators=TEXT_OPERATORS, float_outputs=True)
    search = Search(problem, scheme, settings.max_drop, bench.deadline, bench.say)
    body, best = search.run()
    recipe = {
        **best.choice.scheme.as_recipe(),
        "ranges": best.choice.ranges,
        "bias_correction": best.choice.bias_correction,
        "float_layers": list(best.choice.keep_float),
        "calibration_rows": len(calibration) if best.choice.ranges == "minmax" else min(len(calibration), HISTOGRAM_ROWS),
        "quantisation_aware_epochs": settings.recover if trained is not None else 0,
        "raw_rows_are_the_quantised_input": start is not None,
    }
    trials = [{**trial.as_json(), "trained": trained is not None} for trial in search.trials]
    facts = {"recipe": recipe, "start": asdict(start) if start is not None else None, "trials": trials, "body": _digest(body)}
    static = Found(body, facts, best.drop if best.drop is not None else 100.0, search.was_cut)
    if trained is not None or not can_be_dynamic(graph.body):
        return static
    return _better_of_dynamic(static, best.speed_up, judge, graph, target, settings.max_drop)


def _better_of_dynamic(static: Found, speed: float | None, judge: Judge, graph: FloatGraph, target: Target, max_drop: float) -> Found:
    """Try dynamic int8 beside what the search found, and take it where it holds the budget and the other does not, or is faster."""
    try:
        body = quantize_dynamically(graph.body, target.scheme)
    except ExportError as error:
        failed = {"method": "dynamic", "failed": error.message.partition(":")[0]}  # what is behind the colon may hold a path of this machine
        return replace(static, facts={**static.facts, "trials": [*static.facts["trials"], failed]})
    predictor = judge.opened(body, None)
    drop, own_speed, is_safe = judge.drop(predictor), judge.speed_up(predictor), not dependence_on_batch(predictor, judge.images)
    trial = {"method": "dynamic", "drop": drop, "speed_up": own_speed, "rows_are_independent": is_safe}
    trials = [*static.facts["trials"], trial]
    if not is_safe or drop > max_drop or (static.drop <= max_drop and (own_speed or 0.0) <= (speed or 0.0)):
        return replace(static, facts={**static.facts, "trials": trials})
    recipe = {"method": "dynamic", "weights": "int8", "reduce_range": target.scheme.reduce_range}
    return Found(body, {"recipe": recipe, "start": None, "trials": trials, "body": _digest(body)}, drop, static.was_cut)


def _ranges_of_layers(prepared: onnx.ModelProto, trained: Rounded | None) -> Ranges:
    """Give the ranges that were trained with, by the names of the tensors that the layers read: a layer's weights keep its name in the graph."""
    if trained is None:
        return {}
    layers = {node.input[1].removesuffix(".weight"): node.input[0] for node in layers_of(prepared)}
    return {tensor: trained.ranges[name] for name, tensor in layers.items() if name in trained.ranges and tensor != NORMALISED}


def deadline_of(settings: ExportSettings) -> float:
    """Give the moment, on `time.monotonic`, at which searches end."""
    return time.monotonic() + 60 * settings.time_budget if settings.time_budget else float("inf")
