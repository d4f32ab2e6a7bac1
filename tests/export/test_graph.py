from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export import measure, quantize, rewrite
from export.bias_correction import correct_biases
from export.calibration import choose_rows, chunks, normalised
from export.graph import LOGITS, NORMALISED, export_body, serving_graph, strip_metadata
from finetune.network import Network, build_network
from fmx.contract import Fingerprint, ImageInput, ModelContract
from fmx.data.rows import Rows
from fmx.errors import ExportError
from fmx.predictor import Predictor
from fmx.runtime import open_session
from fmx.statistics import softmax
from tests.finetune.test_base_models import FAMILIES


def contract_for(spec: ImageInput, classes: int = 5) -> ModelContract:
    return ModelContract(task="image-classification", labels=tuple(f"c{i}" for i in range(classes)), input=spec)


def random_rows(n: int, spec: ImageInput) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(spec.height // 4 + 1, axis=1).repeat(spec.width // 4 + 1, axis=2)[:, : spec.height, : spec.width]


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
def test_family_exports_with_a_dynamic_batch_and_computes_the_same(name: str, size: int) -> None:
    network, _, spec = build_network(name, "none", size, 5)
    network.eval()
    model = serving_graph(export_body(network, spec, 20), contract_for(spec), "0" * 64)
    predictor = Predictor(model.SerializeToString(), contract_for(spec), threads=2)
    measure.check_parity(network, predictor, random_rows(7, spec))


@pytest.fixture(scope="module")
def exported() -> tuple[Network, ImageInput, onnx.ModelProto]:
    torch.manual_seed(0)  # the fresh head's weights
    network, _, spec = build_network("efficientnet_lite0", "default", 32, 5)
    network.eval()
    body = export_body(network, spec, 20)
    rewrite.pool_reduced_maps(body)
    return network, spec, body


def test_input_is_raw_rows_and_output_is_probabilities(exported: tuple[Network, ImageInput, onnx.ModelProto]) -> None:
    network, spec, body = exported
    model = serving_graph(body, contract_for(spec), "ab" * 32)
    rows = random_rows(3, spec)
    session = open_session(model.SerializeToString(), threads=1)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 32, 32, 3])
    with torch.inference_mode():
        expected = softmax(network(torch.from_numpy(rows)).numpy())
    assert session.run(None, {"images": rows})[0] == pytest.approx(expected, abs=1e-5)


def test_file_carries_the_contract_and_no_path_or_stack_trace(exported: tuple[Network, ImageInput, onnx.ModelProto]) -> None:
    _, spec, body = exported
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


def test_parity_failure_is_an_error(exported: tuple[Network, ImageInput, onnx.ModelProto]) -> None:
    network, spec, body = exported
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


def test_raw_rows_are_the_quantised_input_only_where_that_is_exact(spec: ImageInput) -> None:
    assert quantize.input_quantisation(spec) == (1 / 128, 127)
    assert quantize.input_quantisation(spec.model_copy(update={"mean": (127.5,) * 3})) is None
    assert quantize.input_quantisation(spec.model_copy(update={"mean": (124.0, 116.0, 104.0)})) is None
    assert quantize.input_quantisation(spec.model_copy(update={"std": (128.0, 128.0, 127.0)})) is None


def test_int8_graph_agrees_with_fp32_and_holds_int8_weights(exported: tuple[Network, ImageInput, onnx.ModelProto]) -> None:
    _, spec, body = exported
    assert_int8_agrees(body, spec, exact=True)


def test_int8_graph_with_a_normalisation_a_channel_agrees_with_fp32() -> None:
    torch.manual_seed(0)
    network, _, spec = build_network("resnet18", "none", 32, 5)
    network.eval()
    assert_int8_agrees(export_body(network, spec, 20), spec, exact=False)


def assert_int8_agrees(body: onnx.ModelProto, spec: ImageInput, *, exact: bool) -> None:
    rows = random_rows(64, spec)
    assert (quantize.input_quantisation(spec) is not None) == exact
    contract = contract_for(spec)
    fp32 = serving_graph(body, contract, "0" * 64)
    int8 = serving_graph(quantize.quantize_body(body, rows, spec), contract, "0" * 64, rows_are_quantised=exact)
    first, second = (Predictor(model.SerializeToString(), contract, threads=1).run(rows) for model in (fp32, int8))
    assert np.abs(first - second).max() < 0.05
    assert len(int8.SerializeToString()) < 0.35 * len(fp32.SerializeToString())


def test_uint8_start_equals_float_preprocessing(exported: tuple[Network, ImageInput, onnx.ModelProto]) -> None:
    """The int8 graph that starts at raw rows gives what the same graph gives behind float normalisation."""
    _, spec, body = exported
    rows = random_rows(32, spec)
    quantised = quantize.quantize_body(body, rows, spec)
    contract = contract_for(spec)
    through_float = serving_graph(quantised, contract, "0" * 64, rows_are_quantised=False)
    direct = serving_graph(quantised, contract, "0" * 64, rows_are_quantised=True)
    assert "Sub" in [node.op_type for node in through_float.graph.node]
    assert "Sub" not in [node.op_type for node in direct.graph.node]
    first, second = (Predictor(model.SerializeToString(), contract, threads=1).run(rows) for model in (through_float, direct))
    assert first == pytest.approx(second, abs=1e-6)


def test_bias_correction_takes_off_the_mean_shift(exported: tuple[Network, ImageInput, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    _, spec, body = exported
    rows = random_rows(64, spec)

    def logits(model: onnx.ModelProto) -> np.ndarray:
        return np.asarray(open_session(model.SerializeToString(), threads=1).run([LOGITS], {NORMALISED: normalised(rows, spec)})[0])

    reference = logits(body)
    corrected = logits(quantize.quantize_body(body, rows, spec))
    monkeypatch.setattr(quantize, "correct_biases", lambda *arguments: 0)
    plain = logits(quantize.quantize_body(body, rows, spec))
    shift = np.abs((corrected - reference).mean(axis=0)).mean()
    assert shift < 0.6 * np.abs((plain - reference).mean(axis=0)).mean()


def test_bias_correction_counts_its_layers(exported: tuple[Network, ImageInput, onnx.ModelProto]) -> None:
    _, spec, body = exported
    rows = random_rows(32, spec)
    quantised = quantize.quantize_body(body, rows, spec)
    assert correct_biases(body, quantised, rows, spec) == sum(node.op_type == "Conv" for node in body.graph.node)


def labelled(labels: list[int]) -> Rows:
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    return Rows(images, np.array(labels), tuple(map(str, labels)), (), Fingerprint(rows=len(labels), sha256="0" * 64))


def test_calibration_rows_are_stratified_and_seeded() -> None:
    rows = labelled([0] * 90 + [1] * 10 + [2] * 4)
    chosen = choose_rows(rows, 24, 0)
    assert np.bincount(rows.labels[chosen]).tolist() == [10, 10, 4]
    assert np.array_equal(chosen, choose_rows(rows, 24, 0))
    assert not np.array_equal(chosen, choose_rows(rows, 24, 1))
    assert len(choose_rows(rows, 500, 0)) == 104


def test_calibration_is_fed_in_chunks_that_lose_no_row_onnxruntime_18893(spec: ImageInput) -> None:
    """onnxruntime#18893: chunked calibration threw rows away."""
    images = random_rows(70, spec)
    fed = list(chunks(images, spec))
    assert [len(chunk) for chunk in fed] == [32, 32, 6]
    assert np.concatenate(fed) == pytest.approx(normalised(images, spec))
