"""ONNX Runtime's `quantize_static` as it comes, after the pre-processing that its documentation asks for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static

from benchmarks.peers.quantising import Spec, answer_timed


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, spec: Spec) -> None:
        self._batches = spec.batches()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def quantise(spec: Spec) -> str:
    """Quantise and say with which profile."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(spec.body, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, spec.to, _Reader(spec))
    return "defaults"


if __name__ == "__main__":
    answer_timed(quantise, f"onnxruntime {onnxruntime.__version__}")
