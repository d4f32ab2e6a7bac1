from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional

from export.exporter import export_body
from export.graph import LOGITS, NORMALISED
from export.half import halve_body
from finetune.network import Network
from fmx.contract import ImageInput
from fmx.runtime import open_session
from tests.export.bodies import Exported

SPEC = ImageInput(height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1))


class Awkward(nn.Module):
    """Casts, a range, a resize and a comparison, which fp16 converters have tripped over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.interpolate(self.conv(images), scale_factor=2.0, mode="bilinear", align_corners=False)
        ramp = torch.arange(maps.shape[-1]).to(torch.float32) / maps.shape[-1]
        maps = maps * ramp + (maps > 0).to(torch.float32)
        answer: Tensor = self.fc(maps.mean((2, 3)))
        return answer


def logits(body: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(body.SerializeToString(), threads=1).run([LOGITS], {NORMALISED: given})[0])


def assert_halved(body: onnx.ModelProto, given: np.ndarray) -> None:
    half = halve_body(body)
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    weights = [tensor for tensor in half.graph.initializer if len(tensor.dims) > 1]
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
    wanted = logits(body, given)
    assert logits(half, given) == pytest.approx(wanted, abs=0.02 * float(np.abs(wanted).max()))


def test_casts_ranges_and_resizes_survive_onnxconverter_common_304() -> None:
    """onnxconverter-common#304, #320; onnxruntime#25522: casts inside kept float32 and the types clashed; nodes were out of order."""
    body = export_body(Network(Awkward(), SPEC), SPEC, 20)
    assert {"Cast", "Resize"} <= {node.op_type for node in body.graph.node}
    assert_halved(body, np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32))


def test_a_real_network_halves_its_weights(lite0: Exported) -> None:
    _, spec, body = lite0
    given = np.random.default_rng(0).normal(size=(3, 3, spec.height, spec.width)).astype(np.float32)
    assert_halved(body, given)
    assert halve_body(body).ByteSize() < 0.6 * body.ByteSize()
