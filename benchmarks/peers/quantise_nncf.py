"""NNCF's post-training quantisation of an ONNX file: as it comes, or with accuracy control where a budget is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime

from benchmarks.peers.quantising import Spec, answer_timed

BATCH = 64


def quantise(spec: Spec) -> str:
    """Quantise and say with which profile."""
    model = onnx.load(spec.body)
    rows = spec.calibration()
    calibration = nncf.Dataset(rows, lambda row: {"normalised": spec.normalised(row[None])})
    if spec.max_drop is None:
        quantised = nncf.quantize(model, calibration, subset_size=len(rows))
        profile = "quantize, defaults"
    else:
        validation, labels = spec.validation()

        def validate(candidate: onnx.ModelProto, items: Iterable[int]) -> tuple[float, list[float]]:
            session = onnxruntime.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
            chosen = np.array(list(items))
            right: list[float] = []
            for start in range(0, len(chosen), BATCH):
                part = chosen[start : start + BATCH]
                logits: Any = session.run(None, {"normalised": spec.normalised(validation[part])})[0]
                right += [float(hit) for hit in logits.argmax(axis=1) == labels[part]]
            return float(np.mean(right)), right

        quantised = nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=calibration,
            validation_dataset=nncf.Dataset(range(len(labels)), lambda index: index),
            validation_fn=validate,
            max_drop=spec.max_drop / 100,
            drop_type=nncf.DropType.ABSOLUTE,
            subset_size=len(rows),
        )
        profile = "quantize_with_accuracy_control, defaults"
    onnx.save(quantised, spec.to)
    return profile


if __name__ == "__main__":
    answer_timed(quantise, f"nncf {nncf.__version__}, onnxruntime {onnxruntime.__version__}")
