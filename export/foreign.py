"""A package from an ONNX file that was trained elsewhere: wrapped to take raw rows, evaluated where there are labelled rows, marked where not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from pydantic import BaseModel, ConfigDict, Field

from export import measure
from export.check import check_file
from export.float_graph import open_graph
from export.graph import BATCH, LOGITS, NORMALISED, serving_graph, strip_metadata
from export.package_writer import GOLDEN_ROWS, choose_golden_rows
from export.reference import reference_statistics
from export.start import normalised
from fmx import host, storage
from fmx.contract import ImageInput, Interval, Latency, ModelContract, Requires, Variant
from fmx.data.rows import Rows
from fmx.errors import DataError, ExportError, UsageError, disk_errors
from fmx.evaluation import labelled_rows
from fmx.images import ImageReader
from fmx.package import Package, contract_digest, load_package, new_package, write_manifest
from fmx.predictor import Predictor
from fmx.report import render
from fmx.runtime import open_session
from fmx.settings import check
from fmx.statistics import accuracy_of
from fmx.tasks import TASKS, Task, open_task

SATURATES = {"int8-generic": " Weights of 8 bits saturate on x86 CPUs without VNNI; what made this file knows how many bits they have."}
PRECISION = {"float32": "fp32", "float16": "fp16", "int8": "int8-generic"}


class ForeignSettings(BaseModel):
    """What must be said about a file that does not say it itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["image-classification"] = "image-classification"
    labels: str
    """A file with one label a line, or the labels joined by commas, in the order of the model's outputs."""
    data: str | None = None
    """Labelled rows; the test rows are used. None leaves the package unevaluated."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Of the pixels on 0..255 that the model was trained on, a channel; ImageNet's unless told."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    resize: Literal["crop", "squash"] = "crop"
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    samples: bool = True
    name: str | None = None
    force: bool = False


def import_model(file: Path, *, out: Path | str | None = None, say: Any = None, **options: Any) -> Package:
    """Make a package from an ONNX image classifier: float32 [batch, 3, height, width] to logits or probabilities [batch, classes].

    Args:
        file: the model; its weights inside it or beside it.
        out: the folder of packages.
        say: called with lines for a person.
        options: the fields of `ForeignSettings`.

    Raises:
        ExportError: `fmx check` finds an error, or the graph is not of that shape.
        UsageError, DataError: labels or data that do not fit.
    """
    settings = check(ForeignSettings, options, "fmx export --help")
    say = say or (lambda line: None)
    packages = Path(out) if out else storage.home() / "packages"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-.") or "imported"
    name = storage.check_name(settings.name) if settings.name else storage.next_name(packages, stem)
    storage.check_free(packages / name, force=settings.force)
    checked = check_file(file)
    if checked.has_errors:
        raise ExportError(f"{file.name}: {checked.findings[0].message}", hint=f"fmx check {file} lists what was found.")
    body, height, width, classes = _as_body(onnx.load(file), file.name)
    labels = _labels(settings.labels, classes)
    spec = ImageInput(height=height, width=width, **settings.model_dump(include={"mean", "std", "resize", "crop_fraction", "interpolation"}))
    contract = ModelContract(task=TASKS[settings.task].name, labels=labels, input=spec)
    recipe = {"pruning": None, "graph": {"imported": storage.sha256_file(file), "opset": checked.facts["opset"]}, "quantisation": None}
    digest = contract_digest({**contract.model_dump(mode="json"), "recipe": recipe})
    model = _served(body, contract, spec, digest)
    predictor = open_graph(model, contract)
    rows = _rows(settings, predictor.task, name)
    golden = choose_golden_rows(rows if settings.samples else None, predictor.task)
    dependent = measure.dependence_on_batch(predictor, rows.values if rows is not None else golden)
    if dependent:
        raise ExportError(f"{file.name} cannot be served in batches. {dependent}", hint=measure.NOTHING_WRITTEN)
    answers = predictor.run_all(rows.values) if rows is not None else None
    latency = measure.measure_latency({"imported": predictor}, golden, measure.LATENCY_BATCHES, "imported")["imported"]
    accuracy = accuracy_of(answers, rows.labels) if answers is not None and rows is not None else None
    say(
        f"{file.name}: {classes} classes, {height} x {width} pixels, "
        + (f"{accuracy.value:.2%} of {accuracy.n} rows." if accuracy else "unevaluated.")
    )
    facts = {
        "name": name,
        "version": storage.sha256_bytes(f"{digest} {recipe['graph']}".encode())[:12],
        **{key: getattr(contract, key) for key in ModelContract.model_fields},
        "recipe": recipe,
        "contract_digest": digest,
        "rows": {"test": rows.fingerprint} if rows is not None else {},
        "run": _origin(file, checked.facts, accuracy),
        "tools": host.library_versions(),
        "created": host.now(),
    }
    evaluated = (rows, answers) if rows is not None and answers is not None else None
    _write(packages / name, model, contract, facts, golden, evaluated, accuracy, latency, str(checked.facts["precision"]), settings)
    storage.point_latest(packages / name)
    return load_package(packages / name)


def _as_body(model: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, int, int, int]:
    """Rename a foreign graph's input and output as a body's, and read its sizes."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [given for given in graph.input if given.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ExportError(f"{name} has {len(inputs)} inputs and {len(graph.output)} outputs; one of each is needed.", hint=_SHAPES)
    given, answer = inputs[0], graph.output[0]
    shape = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    width = [dim.dim_value for dim in answer.type.tensor_type.shape.dim]
    if len(shape) != 4 or shape[1] != 3 or not shape[2] or not shape[3] or given.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ExportError(f"{name} takes {shape}, where float32 [batch, 3, height, width] is needed.", hint=_SHAPES)
    if shape[0] or len(width) != 2 or not width[1]:
        raise ExportError(f"{name} answers {width} to a batch of {shape[0] or 'any'}; [batch, classes] is needed, dynamic.", hint=_SHAPES)
    renamed = {name: f"inner_{name}" for node in graph.node for name in node.output if name in (NORMALISED, LOGITS)}
    renamed |= {given.name: NORMALISED, answer.name: LOGITS}
    for node in graph.node:
        node.input[:] = [renamed.get(one, one) for one in node.input]
        node.output[:] = [renamed.get(one, one) for one in node.output]
    given.name, answer.name = NORMALISED, LOGITS
    given.type.tensor_type.shape.dim[0].dim_param = BATCH
    for other in [one for one in graph.input if one.name in constants]:
        graph.input.remove(other)
    del graph.value_info[:]
    model.ir_version = max(model.ir_version, 4)  # before it, constants had to be inputs too
    return strip_metadata(model), shape[2], shape[3], width[1]


_SHAPES = "fmx takes image classifiers: one float32 input [batch, 3, height, width], one output [batch, classes]."


def _labels(given: str, classes: int) -> tuple[str, ...]:
    try:
        text = Path(given).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{given} is no UTF-8 text.", hint="One label a line.") from error
    except OSError:  # no such file, or a list that is too long for a name
        text = given.split(",")
    labels = tuple(label.strip() for label in text if label.strip())
    if len(labels) != classes or len(set(labels)) != classes:
        raise UsageError(f"{len(set(labels))} different labels were given for a model that answers {classes} numbers.", hint="One label a number.")
    return labels


def _served(body: onnx.ModelProto, contract: ModelContract, spec: ImageInput, digest: str) -> onnx.ModelProto:
    """Wrap the body; what already answers probabilities gets no second softmax."""
    model = serving_graph(body, contract, digest)
    session = open_session(body.SerializeToString(), threads=host.usable_cpus())
    noise = normalised(ImageReader(spec).noise(GOLDEN_ROWS), spec)
    answers = np.asarray(session.run([LOGITS], {NORMALISED: noise})[0], np.float64)
    if not (np.allclose(answers.sum(axis=1), 1.0, atol=1e-3) and answers.min() >= -1e-6):
        return model
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax" and node.input[0] == LOGITS)
    model.graph.node.remove(softmax)
    for node in model.graph.node:
        node.output[:] = [contract.output.name if one == LOGITS else one for one in node.output]
        node.input[:] = [contract.output.name if one == LOGITS else one for one in node.input]
    return model


def _rows(settings: ForeignSettings, task: Task, name: str) -> Rows | None:
    if settings.data is None:
        return None
    rows = labelled_rows(settings.data, 0, None, task, name)
    if not len(rows):
        raise DataError(f"{settings.data} has no test rows.", hint="Leave --data out for an unevaluated package.")
    return rows


def _origin(file: Path, found: dict[str, Any], accuracy: Interval | None) -> dict[str, Any]:
    """What stands in place of a run."""
    return {
        "name": file.name,
        "model": "imported",
        "method": "imported",
        "weights_origin": f"{file.name} ({found['producer'] or 'unknown producer'})",
        "seed": 0,
        "split_seed": 0,
        "weights_sha256": storage.sha256_file(file),
        "accuracy": accuracy.model_dump() if accuracy else None,
    }


def _write(
    target: Path,
    model: onnx.ModelProto,
    contract: ModelContract,
    facts: dict[str, Any],
    golden: np.ndarray,
    evaluated: tuple[Rows, np.ndarray] | None,
    accuracy: Interval | None,
    latency: tuple[Latency, ...],
    precision: str,
    settings: ForeignSettings,
) -> None:
    variant_name = PRECISION[precision]
    with new_package(target, force=settings.force) as folder, disk_errors("writing the package"):
        path = folder / f"model.{variant_name}.onnx"
        storage.write_bytes(path, model.SerializeToString(deterministic=True))
        expected = Predictor(path, contract, threads=host.usable_cpus()).run_golden(golden)
        np.savez(folder / "golden.npz", allow_pickle=False, rows=golden, **{variant_name: expected})
        if evaluated is not None:
            reference = reference_statistics(open_task(contract.task, contract.labels, contract.input), *evaluated)
            storage.write_text(folder / "reference.json", json.dumps(reference, indent=2) + "\n")
        variant = Variant(
            name=variant_name,  # type: ignore[arg-type]
            file=path.name,
            sha256=storage.sha256_file(path),
            bytes=path.stat().st_size,
            precision=precision,
            requires=Requires(),
            accuracy=accuracy,
            latency=latency,
            why=_why(facts["run"]["name"], variant_name, is_evaluated=evaluated is not None),
        )
        storage.write_text(folder / "report.html", render("imported.html.j2", package=facts, variant=variant, host=host.describe()))
        write_manifest(folder, {**facts, "variants": (variant,)})


def _why(file: str, variant: str, *, is_evaluated: bool) -> str:
    evaluated = "evaluated on labelled rows" if is_evaluated else "never evaluated here"
    return f"Imported from {file}; {evaluated}.{SATURATES.get(variant, '')}"
