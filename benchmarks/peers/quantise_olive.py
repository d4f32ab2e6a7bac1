"""Olive's static quantisation pass as it comes, fed through its own data containers."""

from __future__ import annotations

from typing import Any

import olive
import onnxruntime
from olive.data.component.dataset import BaseDataset
from olive.data.config import DataConfig
from olive.data.registry import Registry
from olive.hardware import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.quantization import OnnxStaticQuantization

from benchmarks.peers.quantising import Spec, answer_timed


def quantise(spec: Spec) -> str:
    """Quantise and say with which profile."""

    @Registry.register_dataset()  # type: ignore[untyped-decorator]
    def calibration_rows(**_: Any) -> BaseDataset:
        return BaseDataset([({"normalised": spec.normalised(row[None])[0]}, 0) for row in spec.calibration()])

    data = DataConfig(
        name="calibration",
        load_dataset_config={"type": "calibration_rows"},
        pre_process_data_config={"type": "skip_pre_process"},
        post_process_data_config={"type": "skip_post_process"},
        dataloader_config={"type": "default_dataloader", "params": {"batch_size": 1}},
    )
    here = AcceleratorSpec("cpu", "CPUExecutionProvider")
    olive_pass = create_pass_from_dict(OnnxStaticQuantization, {"data_config": data}, disable_search=True, accelerator_spec=here)
    made = olive_pass.run(ONNXModelHandler(spec.body), spec.to)
    if made.model_path != spec.to:
        raise SystemExit(f"Olive wrote {made.model_path}.")
    return "OnnxStaticQuantization, defaults"


if __name__ == "__main__":
    answer_timed(quantise, f"olive {olive.__version__}, onnxruntime {onnxruntime.__version__}")
