"""Optimum's ORTQuantizer with the profile for this CPU: AVX512-VNNI, or AVX2 where there is no VNNI."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
from datasets import Array3D, Dataset, Features
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

from benchmarks.peers.quantising import Spec, answer_timed


def quantise(spec: Spec) -> str:
    """Quantise and say with which profile."""
    rows = spec.calibration()

    def examples() -> Iterator[dict[str, Any]]:
        for row in rows:
            yield {"normalised": spec.normalised(row[None])[0]}

    features = Features({"normalised": Array3D((3, *rows.shape[1:3]), "float32")})
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset.from_generator(examples, features=features, cache_dir=folder).with_format("numpy")
        profile = AutoQuantizationConfig.avx512_vnni if spec.vnni else AutoQuantizationConfig.avx2
        config = profile(is_static=True)
        quantizer = ORTQuantizer(Path(spec.body))
        ranges = quantizer.fit(
            dataset=dataset,
            calibration_config=AutoCalibrationConfig.minmax(dataset),
            onnx_augmented_model_name=str(Path(folder) / "augmented.onnx"),
            operators_to_quantize=config.operators_to_quantize,
        )
        quantizer.quantize(config, save_dir=folder, calibration_tensors_range=ranges)
        shutil.copyfile(Path(folder) / f"{Path(spec.body).stem}_quantized.onnx", spec.to)
    return f"AutoQuantizationConfig.{profile.__name__}(is_static=True), minmax"


if __name__ == "__main__":
    answer_timed(quantise, f"optimum-onnx {version('optimum-onnx')}, onnxruntime {onnxruntime.__version__}")
