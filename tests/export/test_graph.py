from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export import measure, rewrite
from export.exporter import export_body
from export.graph import serving_graph, strip_metadata
from finetune.network import Network, build_network
from fmx.contract import ImageInput
from fmx.errors import ExportError
from fmx.predictor import Predictor
from fmx.runtime import open_session
from fmx.statistics import softmax
from tests.export.bodies import Exported, contract_for, random_rows
from tests.finetune.test_base_models import FAMILIES


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
def test_family_exports_with_a_dynamic_batch_and_computes_the_same(name: str, size: int) -> None:
    network, _, spec = build_network(name, "none", size, 5)
    network.eval()
    model = serving_graph(export_body(network, spec, 20), contract_for(spec), "0" * 64)
    predictor = Predictor(model.SerializeToString(), contract_for(spec), threads=2)
    measure.check_parity(network, predictor, random_rows(7, spec))


def test_input_is_raw_rows_and_output_is_probabilities(lite0: Exported) -> None:
    network, spec, body = lite0
    model = serving_graph(body, contract_for(spec), "ab" * 32)
    rows = random_rows(3, spec)
    session = open_session(model.SerializeToString(), threads=1)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 32, 32, 3])
    with torch.inference_mode():
        expected = softmax(network(torch.from_numpy(rows)).numpy())
    assert session.run(None, {"images": rows})[0] == pytest.approx(expected, abs=1e-5)


def test_file_carries_the_contract_and_no_path_or_stack_trace(lite0: Exported) -> None:
    _, spec, body = lite0
    model = serving_graph(body, contract_for(spec), "ab" * 32)
    properties = {item.key: item.value for item in model.metadata_props}
    assert properties == {"fmx.task": "image-classification", "fmx.labels": "c0\nc1\nc2\nc3\nc4", "fmx.contract_digest": "ab" * 32}
    raw = model.SerializeToString()
    for leak in (b"stack_trace", b".py", b"/site-packages", b"pkg.torch", b"File "):
        assert leak not in raw
    assert [item.domain for item in model.opset_import] == [""]


def test_strip_metadata_takes_out_what_an_exporter_leaves() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], doc_string="File /home/me/x.py")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/x.py")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, [1])], [helper.make_tensor_value_info("y", 1, [1])], doc_string="/home/me"
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])
    assert b"/home/me" not in strip_metadata(model).SerializeToString()
    assert [item.domain for item in model.opset_import] == [""]


@pytest.mark.parametrize("opset", [18, 21])
def test_requested_opset_is_the_written_one(opset: int) -> None:
    network, _, spec = build_network("squeezenet1_1", "none", 32, 3)
    body = export_body(network, spec, opset)
    assert body.opset_import[0].version == opset


def test_batch_that_the_model_fixes_is_an_error_pytorch_148886() -> None:
    """pytorch#148886: the dynamic batch was lost without a word."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 8 * 8, 2)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.fc(images.reshape(2, -1))
            return logits

    spec = ImageInput(height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ExportError):
        export_body(Network(Fixed(), spec), spec, 20)


def test_parity_failure_is_an_error(lite0: Exported) -> None:
    network, spec, body = lite0
    broken = onnx.ModelProto()
    broken.CopyFrom(body)
    weights = next(tensor for tensor in broken.graph.initializer if len(tensor.dims) == 4)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.5, weights.name))
    predictor = Predictor(serving_graph(broken, contract_for(spec), "0" * 64).SerializeToString(), contract_for(spec), threads=1)
    with pytest.raises(ExportError, match="does not compute what the model computes"):
        measure.check_parity(network, predictor, random_rows(7, spec))


@pytest.mark.parametrize("keepdims", [0, 1])
def test_spatial_mean_becomes_pooling_with_the_same_values(keepdims: int) -> None:
    shape: list[str | int | None] = ["n", 6, 1, 1] if keepdims else ["n", 6]
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array([-1, 2], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 5)).astype(np.float32)
    before = open_session(model.SerializeToString(), threads=1).run(None, {"x": x})[0]
    assert rewrite.pool_reduced_maps(model) == 1
    assert "ReduceMean" not in [node.op_type for node in model.graph.node]
    assert len(model.graph.initializer) == 0
    assert open_session(model.SerializeToString(), threads=1).run(None, {"x": x})[0] == pytest.approx(before, abs=1e-6)


def test_mean_over_other_axes_is_left_alone() -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 5, 5])],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    assert rewrite.pool_reduced_maps(helper.make_model(graph)) == 0
