"""Findings about any ONNX file from anywhere, worst first: what `fmx check` prints. The file is run, never trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import _get_all_tensors

from export.audit import Audit, audit_graph
from fmx.bench import example_feed, time_session
from fmx.errors import FmxError, UsageError, first_line
from fmx.host import usable_cpus
from fmx.runtime import open_session

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

BATCHES = (1, 2, 7)
EXTREME = 1e4
ROW_TOLERANCE = 1e-3
"""Of a row's largest value: batches may be summed in another order."""

LARGE_FLOAT_BYTES = 65_536

RUNTIME_OF_IR = {8: "1.10", 9: "1.15", 10: "1.18", 11: "1.23", 12: "1.24", 13: "1.25"}
"""The first ONNX Runtime that reads an IR version."""


@dataclass(frozen=True)
class Finding:
    """One thing about a file."""

    severity: Severity
    code: str
    message: str

    def as_json(self) -> dict[str, str]:
        """Give the fields."""
        return asdict(self)


@dataclass(frozen=True)
class Checked:
    """What was found about a file."""

    findings: tuple[Finding, ...]
    facts: dict[str, Any]

    @property
    def has_errors(self) -> bool:
        """Whether the file should not be used as it is."""
        return any(finding.severity == "error" for finding in self.findings)


Opened = Callable[[], onnxruntime.InferenceSession]


def check_file(path: Path, sizes: dict[str, int] | None = None) -> Checked:
    """Check an ONNX file.

    Args:
        path: the file.
        sizes: lengths of dynamic axes other than the batch, by name.

    Raises:
        UsageError: no such file, or a dynamic axis without a length.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", hint="Give an ONNX file.")
    facts: dict[str, Any] = {"file": path.name, "bytes": path.stat().st_size}
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf and onnx raise several kinds
        return _sorted([Finding("error", "unreadable", f"It is no ONNX file: {first_line(error)}.")], facts)
    findings = [*_external_data(model, path), *_leaks(model), *_versions(model, facts)]
    if any(finding.code.startswith("external-data") and finding.severity == "error" for finding in findings):
        return _sorted(findings, facts)  # it would read files that are none of its business
    findings += _validity(path)
    try:
        session = open_session(path, threads=usable_cpus())
    except FmxError as error:
        return _sorted([*findings, Finding("error", "does-not-load", error.message)], facts)
    facts |= _shapes(session)
    findings += _behaviour(session, sizes or {}, facts)
    findings += _labels(model, session)
    if not any(finding.severity == "error" for finding in findings):
        findings += _precision(model, path, facts)
        try:
            facts["latency_ms"] = time_session(session, [1 if facts["batch"] == "dynamic" else int(facts["batch"])], sizes, seconds=0.5)[0].median_ms
        except UsageError:  # inputs with different fixed first axes have no batch
            findings.append(Finding("note", "not-timed", "Its inputs have no common batch, so it was not timed."))
    return _sorted(findings, facts)


def _sorted(findings: list[Finding], facts: dict[str, Any]) -> Checked:
    return Checked(tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))), facts)


def _external_data(model: onnx.ModelProto, path: Path) -> Iterator[Finding]:
    """Weights in other files: whether they are there, and whether their paths stay in the folder."""
    places = {
        entry.value
        for tensor in _get_all_tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for place in sorted(places):
        target = path.parent / place
        if Path(place).is_absolute() or not target.resolve().is_relative_to(path.parent.resolve()):
            yield Finding("error", "external-data-leaves-folder", f"Its weights are read from {place}, outside its folder.")
        elif not target.is_file():
            yield Finding("error", "external-data-missing", f"Its weights are in {place}, which is not beside it.")
        else:
            size = target.stat().st_size
            yield Finding("note", "external-data", f"Its weights are in {place} ({size / 1e6:.1f} MB): copy both files together.")


def _leaks(model: onnx.ModelProto) -> Iterator[Finding]:
    """Paths and stack traces that an exporter left."""
    graph = model.graph
    texts = [(part.doc_string, [item.value for item in part.metadata_props]) for part in (graph, *graph.node)]
    told = sum(len(text) + sum(map(len, values)) for text, values in texts)
    if any(mark in text for doc, values in texts for text in (doc, *values) for mark in ('File "', ".py", "/home/")):
        yield Finding("warning", "leaks-paths", f"Its nodes carry stack traces or source paths ({told / 1e3:.1f} kB of notes).")


def _versions(model: onnx.ModelProto, facts: dict[str, Any]) -> Iterator[Finding]:
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    facts |= {"ir_version": model.ir_version, "opset": opset, "producer": model.producer_name, "nodes": len(model.graph.node)}
    needed = RUNTIME_OF_IR.get(model.ir_version)
    if needed is not None and model.ir_version > 8:
        yield Finding("note", "ir-version", f"IR version {model.ir_version} needs ONNX Runtime {needed} or newer; here is {onnxruntime.__version__}.")
    used = {node.domain for node in model.graph.node}
    idle = sorted(item.domain for item in model.opset_import if item.domain not in used and item.domain not in ("", "ai.onnx"))
    if idle:
        yield Finding("note", "unused-opsets", f"It imports operator sets that it does not use: {', '.join(idle)}.")


def _validity(path: Path) -> Iterator[Finding]:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker raises several kinds
        yield Finding("warning", "not-valid-onnx", f"onnx's checker objects: {first_line(error)}")


def _shapes(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    return {
        "inputs": [{"name": given.name, "type": given.type, "shape": given.shape} for given in session.get_inputs()],
        "outputs": [{"name": given.name, "type": given.type, "shape": given.shape} for given in session.get_outputs()],
    }


def _behaviour(session: onnxruntime.InferenceSession, sizes: dict[str, int], facts: dict[str, Any]) -> Iterator[Finding]:
    """Run it: batches, determinism, extreme input."""
    given = session.get_inputs()
    fixed = next((item.shape[0] for item in given if item.shape and isinstance(item.shape[0], int)), None)
    facts["batch"] = fixed or "dynamic"
    if fixed is not None:
        yield Finding("warning", "fixed-batch", f"Its batch is fixed at {fixed}: a server can neither batch nor split.")
    first = example_feed(session, fixed or max(BATCHES), sizes)
    try:
        whole = session.run(None, first)
    except Exception as error:  # onnxruntime raises what its native part says
        yield Finding("error", "does-not-run", f"It fails on {fixed or max(BATCHES)} rows: {first_line(error)}")
        return
    again = session.run(None, first)
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(whole, again, strict=True) if _is_numeric(a)):
        yield Finding("warning", "not-deterministic", "It answers the same input differently the second time.")
    if fixed is None:
        yield from _batches(session, first, whole)
    yield from _extremes(session, first)


def _batches(session: onnxruntime.InferenceSession, first: dict[str, np.ndarray], whole: list[np.ndarray]) -> Iterator[Finding]:
    for size in BATCHES:
        try:
            part = session.run(None, {name: value[:size] for name, value in first.items()})
        except Exception as error:  # onnxruntime raises what its native part says
            yield Finding("error", "batch-not-dynamic", f"Its batch axis is called dynamic, but {size} rows fail: {first_line(error)}")
            return
        for name, few, many in zip([one.name for one in session.get_outputs()], part, whole, strict=True):
            if not _is_numeric(few):
                continue
            if few.shape[:1] != (size,):
                yield Finding("error", "batch-not-dynamic", f"Output {name} has shape {few.shape} for {size} rows.")
                return
            scale = float(np.abs(many.astype(np.float64)).max()) or 1.0
            difference = float(np.abs(few.astype(np.float64) - many[:size].astype(np.float64)).max())
            if difference > ROW_TOLERANCE * scale:
                yield Finding(
                    "error", "rows-are-not-independent", f"Output {name} of a row depends on its company: batch {size} differs by {difference:.2g}."
                )
                return


def _is_numeric(answer: Any) -> bool:
    """Sequences, maps and strings are answers too (scikit-learn's), and are not compared."""
    return isinstance(answer, np.ndarray) and answer.dtype.kind in "fiu"


def _extremes(session: onnxruntime.InferenceSession, first: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Zeros, the largest values, and for floats the most negative ones."""
    for what, value in (("zeros", 0.0), ("the largest values", 1.0), ("the most negative values", -1.0)):
        feed = {name: _filled(array, value) for name, array in first.items()}
        try:
            answers = session.run(None, feed)
        except Exception as error:  # onnxruntime raises what its native part says
            yield Finding("error", "fails-on-extremes", f"It fails on {what}: {first_line(error)}")
            continue
        if any(_is_numeric(array) and array.dtype.kind == "f" and not np.isfinite(array).all() for array in answers):
            integers = all(array.dtype.kind != "f" for array in first.values())
            yield Finding("error" if integers or not value else "warning", "not-a-number", f"It answers {what} with NaN or infinity.")


def _filled(array: np.ndarray, value: float) -> np.ndarray:
    if array.dtype.kind == "f":
        return np.full_like(array, EXTREME * value)
    if array.dtype == np.uint8:
        return np.full_like(array, 255 if value > 0 else 0)
    return np.full_like(array, int(value > 0))


def _labels(model: onnx.ModelProto, session: onnxruntime.InferenceSession) -> Iterator[Finding]:
    labels = next((item.value.split("\n") for item in model.metadata_props if item.key == "fmx.labels"), None)
    widths = [output.shape[-1] for output in session.get_outputs() if output.shape and isinstance(output.shape[-1], int)]
    if labels is not None and widths and len(labels) not in widths:
        yield Finding("error", "labels", f"It carries {len(labels)} labels and answers {widths[0]} numbers a row.")


def _precision(model: onnx.ModelProto, path: Path, facts: dict[str, Any]) -> Iterator[Finding]:
    """What of an int8 file is still float."""
    kinds = {node.op_type for node in model.graph.node}
    if not kinds & {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}:
        facts["precision"] = "float16" if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer) else "float32"
        return
    facts["precision"] = "int8"
    large = {
        tensor.name: int(np.prod(tensor.dims)) * 4
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) * 4 >= LARGE_FLOAT_BYTES
    }
    if large:
        name = max(large, key=lambda key: large[key])
        yield Finding("warning", "float-weights", f"{len(large)} large weights are float ({sum(large.values()) / 1e6:.1f} MB, the largest {name}).")
    audit = _audited(path)
    if audit is not None:
        facts["audit"] = audit.as_json()
        left = {kind: count for kind, count in audit.floats.items() if kind not in ("Softmax",)}
        if left:
            names = ", ".join(f"{count} {kind}" for kind, count in left.items())
            share = f"{100 * audit.float_share:.0f} % of the time is outside int8"
            yield Finding("warning" if audit.float_share > 0.25 else "note", "float-left-overs", f"ONNX Runtime runs in float: {names}; {share}.")


def _audited(path: Path) -> Audit | None:
    model = onnx.load(path)
    dynamic = [size for given in model.graph.input for size in given.type.tensor_type.shape.dim[1:] if not size.dim_value]
    return None if dynamic or len(model.graph.input) != 1 else audit_graph(model)
