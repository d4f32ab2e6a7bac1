from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.exporter import export_body
from export.graph import LOGITS, NORMALISED, serving_graph
from export.probe import measure_noise
from export.quantize import layers_of, prepare_body, quantize_body
from export.start import Start, normalised, start_at_raw_rows
from finetune.network import Network, build_network
from fmx.contract import ImageInput
from fmx.predictor import Predictor
from fmx.runtime import open_session
from tests.export.bodies import HERE, Exported, contract_for, feed_for, random_rows
from tests.export.test_quantize import ranges_of

IMAGENET = ImageInput(height=32, width=32, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def logits(body: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(body.SerializeToString(), threads=1).run([LOGITS], {NORMALISED: given})[0])


def assert_equal_from_raw_rows(body: onnx.ModelProto, spec: ImageInput, start: Start, raw: onnx.ModelProto) -> None:
    rows = random_rows(5, spec)
    wanted = logits(body, normalised(rows, spec))
    assert logits(raw, start.feed(rows)) == pytest.approx(wanted, abs=2e-5 * float(np.abs(wanted).max()) + 1e-12)


def test_one_whole_mean_and_one_std_need_no_change(lite0: Exported) -> None:
    _, spec, body = lite0
    raw, start = start_at_raw_rows(body, spec)
    assert raw is body
    assert start == Start(1 / 128, 127)
    assert np.array_equal(start.feed(random_rows(3, spec)), normalised(random_rows(3, spec), spec))


def test_a_mean_and_a_std_a_channel_move_into_the_first_convolution_with_its_padding_exact(resnet: Exported) -> None:
    _, spec, body = resnet
    raw, start = start_at_raw_rows(body, spec)
    assert start is not None
    assert start.constant is not None
    assert_equal_from_raw_rows(body, spec, start, raw)


@pytest.mark.parametrize("mean", [(127.5, 127.5, 127.5), (124.0, 116.0, 104.0), (0.0, 0.0, 0.0), (255.0, 250.0, 255.0)])
def test_any_normalisation_within_a_byte_starts_at_raw_rows(resnet: Exported, mean: tuple[float, float, float]) -> None:
    _, spec, body = resnet
    spec = spec.model_copy(update={"mean": mean, "std": (50.0, 60.0, 70.0)})
    raw, start = start_at_raw_rows(body, spec)
    assert start is not None
    assert_equal_from_raw_rows(body, spec, start, raw)


class Patches(nn.Module):
    """A convolution without padding, as vision transformers begin."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.fc(torch.relu(self.embed(images)).mean((2, 3)))
        return answer


def test_without_padding_the_means_move_into_the_bias() -> None:
    spec = IMAGENET
    body = export_body(Network(Patches(), spec), spec, 20)
    raw, start = start_at_raw_rows(body, spec)
    assert start is not None
    assert start.constant is None
    assert_equal_from_raw_rows(body, spec, start, raw)


class TwoReaders(Patches):
    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = super().forward(images) + images.mean((1, 2, 3)).unsqueeze(1)
        return answer


def test_two_readers_of_the_input_keep_float_normalisation() -> None:
    spec = IMAGENET
    body = export_body(Network(TwoReaders(), spec), spec, 20)
    assert start_at_raw_rows(body, spec) == (body, None)


def from_raw_rows_and_behind(
    graph: onnx.ModelProto, quantised: onnx.ModelProto, start: Start | None, spec: ImageInput, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A graph's answers to raw rows, and those of its quantised body when the rows are dequantised before it."""
    found = logits(quantised, feed_for(start, spec)(rows))
    found = np.exp(found - found.max(axis=1, keepdims=True))
    return Predictor(graph.SerializeToString(), contract_for(spec), threads=1).run(rows), found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("family", ["lite0", "resnet"])
def test_int8_graph_from_raw_rows_equals_the_one_behind_float_preprocessing(family: str, request: pytest.FixtureRequest) -> None:
    """The graph that starts at raw bytes gives what its quantised body gives when the rows are dequantised before it."""
    _, spec, body = request.getfixturevalue(family)
    raw, start = start_at_raw_rows(body, spec)
    rows = random_rows(16, spec)
    prepared = prepare_body(raw)
    quantised = quantize_body(prepared, ranges_of(prepared, rows, feed_for(start, spec)), HERE, start=start)
    graph = serving_graph(quantised, contract_for(spec), "0" * 64, start)
    kinds = [node.op_type for node in graph.graph.node]
    assert "Sub" not in kinds
    assert "Cast" not in kinds
    first = next(node for node in graph.graph.node if node.op_type == "Conv")
    maker = next(node for node in graph.graph.node if first.input[0] in node.output)
    assert maker.op_type == "DequantizeLinear"
    answers, expected = from_raw_rows_and_behind(graph, quantised, start, spec, rows)
    assert answers == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", ["lite0", "resnet"])
def test_first_layer_that_stays_float_reads_the_rows_dequantised(family: str, request: pytest.FixtureRequest) -> None:
    """The search may put the very first layer back to float, to hold its budget."""
    _, spec, body = request.getfixturevalue(family)
    raw, start = start_at_raw_rows(body, spec)
    rows = random_rows(16, spec)
    prepared = prepare_body(raw)
    kept = (layers_of(prepared)[0].name,)
    quantised = quantize_body(prepared, ranges_of(prepared, rows, feed_for(start, spec)), HERE, start=start, keep_float=kept)
    graph = serving_graph(quantised, contract_for(spec), "0" * 64, start)
    assert next(node for node in graph.graph.node if NORMALISED in node.output).op_type == "DequantizeLinear"
    answers, expected = from_raw_rows_and_behind(graph, quantised, start, spec, rows)
    assert answers == pytest.approx(
        expected / expected.sum(axis=1, keepdims=True), abs=0.01
    )  # a float layer rounds otherwise in another graph, and what it gives is quantised


def test_first_weights_hold_the_constant_channel_within_the_others_size(resnet: Exported) -> None:
    """A fourth channel far larger than the others would take the int8 weights' resolution away."""
    _, spec, body = resnet
    raw, start = start_at_raw_rows(body, spec)
    assert start is not None
    conv = next(node for node in raw.graph.node if NORMALISED in node.input)
    weights = numpy_helper.to_array(next(tensor for tensor in raw.graph.initializer if tensor.name == conv.input[1]))
    assert weights.shape[1] == 4
    assert np.abs(weights[:, 3]).max() < 3 * np.abs(weights[:, :3]).max()


def test_older_opset_quantises_too() -> None:
    """Below opset 18 ReduceMean and Pad are told their axes otherwise."""
    torch.manual_seed(0)
    network, _, spec = build_network("resnet18", "none", 32, 5)
    network.eval()
    body = export_body(network, spec, 17, "torchscript")
    raw, start = start_at_raw_rows(body, spec)
    assert start is not None
    assert start.constant is not None
    rows = random_rows(16, spec)
    prepared = prepare_body(raw)
    model = quantize_body(prepared, ranges_of(prepared, rows, start.feed), HERE, start=start)
    noise = measure_noise(prepared, model, rows, start.feed, quantised_inputs=True)
    assert len(noise) == 21
    graph = serving_graph(model, contract_for(spec), "0" * 64, start)
    fp32 = serving_graph(body, contract_for(spec), "0" * 64)
    first, second = (Predictor(one.SerializeToString(), contract_for(spec), threads=1).run(rows) for one in (fp32, graph))
    assert np.abs(first - second).max() < 0.05
