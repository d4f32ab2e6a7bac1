"""Fusion audit: which operators of a graph stay float once ONNX Runtime has optimised it for this host, and what they cost."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from export.graph import SEQUENCE
from fmx.bench import example_feed
from fmx.host import usable_cpus

MOVES = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Slice", "Pad", "ReorderInput")
INTEGER = ("NhwcMaxPool", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLinear")
RUNS = 5
TOKENS = 64


@dataclass(frozen=True)
class Audit:
    """What ONNX Runtime runs for a graph."""

    integers: dict[str, int]
    """Operators that compute in int8, with their numbers."""
    floats: dict[str, int]
    """Operators that compute in float."""
    moves: dict[str, int]
    """Conversions and moves of data."""
    float_share: float
    """Share of the measured time that float operators and conversions take."""
    slowest: list[dict[str, Any]]
    """The float nodes and conversions that take longest: name, operator, share of the time."""

    def as_json(self) -> dict[str, Any]:
        """Give what a report says."""
        return {
            "integers": self.integers,
            "floats": self.floats,
            "moves": self.moves,
            "float_share": round(self.float_share, 4),
            "slowest": self.slowest,
        }


def audit_graph(model: onnx.ModelProto) -> Audit:
    """Run a graph a few times on one row of noise, a text of `TOKENS`, under ONNX Runtime's profiler, and sort its kernels."""
    with tempfile.TemporaryDirectory(prefix="fmx-audit-") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cpus()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = example_feed(session, 1, {SEQUENCE: TOKENS})
        for _ in range(RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    return sort_kernels([event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")])


def sort_kernels(events: list[dict[str, Any]]) -> Audit:
    """Sort a profile's kernel events into integer, float and moves, and add up their times."""
    times: Counter[tuple[str, str]] = Counter()
    for event in events:
        times[event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]] += event["dur"]
    groups: dict[str, Counter[str]] = {"integer": Counter(), "float": Counter(), "moved": Counter()}
    for _, kind in times:
        groups[_group(kind)][kind] += 1
    total = sum(times.values()) or 1
    other = {key: time for key, time in times.items() if _group(key[1]) != "integer"}
    slowest = sorted(other, key=lambda key: -other[key])[:5]
    return Audit(
        dict(sorted(groups["integer"].items())),
        dict(sorted(groups["float"].items())),
        dict(sorted(groups["moved"].items())),
        sum(other.values()) / total,
        [{"name": name, "operator": kind, "share": round(other[name, kind] / total, 4)} for name, kind in slowest],
    )


def _group(operator: str) -> str:
    if operator.startswith("QLinear") or operator in ("QGemm", *INTEGER):
        return "integer"
    return "moved" if operator in MOVES else "float"
