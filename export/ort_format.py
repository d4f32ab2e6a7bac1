"""ONNX Runtime's own format, for its mobile builds: the same graph, optimised only as far as every CPU of the kind can run it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime

from export.quantize import runtime_errors

ORT_FORMATS = {"int8-arm64": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC}
"""Variants that get a file in ONNX Runtime's format, and how far it is optimised. Higher levels would fix what only this host's CPU runs."""


def ort_format(model: onnx.ModelProto, level: onnxruntime.GraphOptimizationLevel) -> bytes:
    """Convert a graph to ONNX Runtime's format. Raises: `ExportError`."""
    with tempfile.TemporaryDirectory(prefix="fmx-ort-") as name, runtime_errors("write in its own format"):
        path = Path(name) / "model.ort"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 3
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return path.read_bytes()
