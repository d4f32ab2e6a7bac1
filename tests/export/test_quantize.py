from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import rewrite
from export.audit import audit_graph
from export.bias_correction import correct_biases
from export.calibration import Feed, Ranges, collect_ranges
from export.graph import LOGITS, NORMALISED, serving_graph
from export.probe import decibels, measure_noise
from export.quantize import Scheme, layers_of, prepare_body, quantize_body
from export.start import Start, start_at_raw_rows
from fmx.contract import ImageInput
from fmx.errors import ExportError
from fmx.predictor import Predictor
from fmx.runtime import open_session
from tests.export.bodies import HERE, Exported, contract_for, feed_for, random_rows


def ranges_of(prepared: onnx.ModelProto, rows: np.ndarray, feed: Feed) -> Ranges:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prepared.onnx"
        onnx.save(prepared, path)
        return collect_ranges(path, "minmax", rows, feed)


def logits(body: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(body.SerializeToString(), threads=1, exact=True).run([LOGITS], {NORMALISED: given})[0], np.float64)


def quantised(body: onnx.ModelProto, spec: ImageInput, rows: np.ndarray, scheme: Scheme) -> tuple[onnx.ModelProto, onnx.ModelProto, Start | None]:
    """The prepared body, its quantised form with biases corrected, and its start."""
    raw, start = start_at_raw_rows(body, spec)
    feed = feed_for(start, spec)
    prepared = prepare_body(raw)
    model = quantize_body(prepared, ranges_of(prepared, rows, feed), scheme, start=start)
    correct_biases(model, measure_noise(prepared, model, rows, feed, quantised_inputs=False))
    return prepared, model, start


@pytest.mark.parametrize("family", ["lite0", "resnet", "mobilenet"])
def test_int8_agrees_with_fp32_and_holds_int8_weights_ultralytics_17158(family: str, request: pytest.FixtureRequest) -> None:
    """ultralytics#17158, #10660: int8 was asked for and the file held float weights. onnxruntime#21440: the file did not shrink."""
    _, spec, body = request.getfixturevalue(family)
    rows = random_rows(64, spec)
    _, model, start = quantised(body, spec, rows, HERE)
    contract = contract_for(spec)
    fp32, int8 = serving_graph(body, contract, "0" * 64), serving_graph(model, contract, "0" * 64, start)
    first, second = (Predictor(graph.SerializeToString(), contract, threads=1).run(rows) for graph in (fp32, int8))
    assert np.abs(first - second).max() < 0.05
    assert int8.ByteSize() < 0.35 * fp32.ByteSize()
    weights = {tensor.name: tensor.data_type for tensor in int8.graph.initializer}
    dequantised = {node.output[0]: node.input[0] for node in int8.graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in int8.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert all(weights[dequantised[node.input[1]]] == TensorProto.INT8 for node in layers)


def test_hard_activations_stay_in_int8(mobilenet: Exported) -> None:
    """ONNX Runtime has no int8 kernel for HardSwish or HardSigmoid, so each would be a float island."""
    _, spec, body = mobilenet
    assert Counter(node.op_type for node in body.graph.node)["HardSwish"] == 19
    _, model, start = quantised(body, spec, random_rows(32, spec), HERE)
    audit = audit_graph(serving_graph(model, contract_for(spec), "0" * 64, start))
    assert not {"HardSwish", "HardSigmoid", "Clip", "Mul", "Add", "Conv", "ReduceMean"} & set(audit.floats)
    assert audit.integers["QLinearConv"] == 52
    assert audit.integers["QLinearGlobalAveragePool"] == 10


@pytest.mark.parametrize("kind", ["HardSwish", "HardSigmoid"])
def test_opened_hard_activation_computes_the_same(kind: str) -> None:
    node = helper.make_node(kind, [NORMALISED], [LOGITS], "hard")
    if kind == "HardSigmoid":
        node.attribute.extend([helper.make_attribute("alpha", 0.3), helper.make_attribute("beta", 0.4)])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(NORMALISED, TensorProto.FLOAT, ["batch", 9])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", 9])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.linspace(-7, 7, 18, dtype=np.float32).reshape(2, 9)
    before = logits(model, x)
    assert rewrite.open_hard_activations(model) == 1
    assert logits(model, x) == pytest.approx(before, abs=1e-6)


def tiny_conv(weights: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Conv", [NORMALISED, "w", "b"], ["y"], "conv"), helper.make_node("Flatten", ["y"], [LOGITS], "flatten")],
        "g",
        [helper.make_tensor_value_info(NORMALISED, TensorProto.FLOAT, ["batch", 3, 1, 1])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", len(bias)])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_channel_of_tiny_weights_keeps_its_bias_onnxruntime_11415() -> None:
    """onnxruntime#11415, #21000: near-zero weights gave a scale so small that the int32 bias overflowed; MobileNetV3 fell from 69 % to 54 %."""
    weights = np.full((2, 3, 1, 1), 0.5, np.float32)
    weights[1] = 1e-9
    body = tiny_conv(weights, np.array([0.25, 5.0], np.float32))
    spec = ImageInput(height=1, width=1, mean=(0, 0, 0), std=(1, 1, 1))
    rows = np.random.default_rng(0).integers(0, 256, (64, 1, 1, 3), dtype=np.uint8)
    feed = feed_for(None, spec)
    prepared = prepare_body(body)
    model = quantize_body(prepared, ranges_of(prepared, rows, feed), HERE)
    correct_biases(model, measure_noise(prepared, model, rows, feed, quantised_inputs=False))
    given = feed(rows)
    wanted, got = logits(body, given), logits(model, given)
    assert np.abs(got[:, 0] - wanted[:, 0]).max() < 0.01 * np.abs(wanted[:, 0]).max()
    step = wanted.max() / 255  # both channels share one output scale
    assert np.abs(got[:, 1] - 5.0).max() < max(0.05, step)


def test_products_saturate_without_vnni_only_where_weights_have_8_bits_onnxruntime_6004() -> None:
    """onnxruntime#6004, #5849: x86 without VNNI adds two products in 16 bits; 255 x 127 twice does not fit. 7-bit weights do."""
    weights = np.ones((2, 3, 1, 1), np.float32)
    body = tiny_conv(weights, np.zeros(2, np.float32))
    spec = ImageInput(height=1, width=1, mean=(0, 0, 0), std=(1, 1, 1))
    rows = np.full((64, 1, 1, 3), 255, np.uint8)
    rows[0] = 0
    feed = feed_for(None, spec)
    prepared = prepare_body(body)
    wanted = logits(body, feed(rows))
    for reduced in (False, True):
        model = quantize_body(prepared, ranges_of(prepared, rows, feed), Scheme(reduce_range=reduced))
        assert logits(model, feed(rows)) == pytest.approx(wanted, rel=0.02)  # exact: as a CPU with VNNI computes
        if reduced:
            here = open_session(model.SerializeToString(), threads=1).run([LOGITS], {NORMALISED: feed(rows)})[0]
            assert here == pytest.approx(wanted, rel=0.02)  # on any CPU


def test_layers_that_are_kept_float_read_their_own_weights(resnet: Exported) -> None:
    _, spec, body = resnet
    raw, start = start_at_raw_rows(body, spec)
    prepared = prepare_body(raw)
    rows = random_rows(16, spec)
    kept = tuple(layer.name for layer in layers_of(prepared)[3:5])
    model = quantize_body(prepared, ranges_of(prepared, rows, feed_for(start, spec)), HERE, start=start, keep_float=kept)
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    assert {node.name for node in model.graph.node if node.op_type == "Conv" and node.input[1] in floats} == set(kept)


def test_int8_of_which_most_layers_stayed_float_is_an_error(resnet: Exported) -> None:
    from export.quantize import check_quantised

    prepared = prepare_body(resnet[2])
    with pytest.raises(ExportError, match=r"21 of 21 layers kept float weights"):
        check_quantised(prepared, ())
    check_quantised(prepared, tuple(layer.name for layer in layers_of(prepared)))


def test_batch_norm_that_was_not_folded_is_an_error_onnxruntime_10484(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime#10484, #21120: preprocessing only logs when it fails, and the batch norms stay."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [NORMALISED, "w"], ["y"], "conv"),
            helper.make_node("BatchNormalization", ["y", "s", "o", "m", "v"], ["z"], "norm"),
            helper.make_node("Flatten", ["z"], [LOGITS], "flatten"),
        ],
        "g",
        [helper.make_tensor_value_info(NORMALISED, TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", 32])],
        [
            numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w"),
            *(numpy_helper.from_array(np.ones(2, np.float32), name) for name in ("s", "o", "m", "v")),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert "BatchNormalization" not in [node.op_type for node in prepare_body(model).graph.node]

    from onnxruntime.quantization import quant_pre_process as pre_process

    from export import quantize

    monkeypatch.setattr(quantize, "quant_pre_process", lambda *given, **options: pre_process(*given, **options, skip_optimization=True))
    with pytest.raises(ExportError, match="not folded"):
        prepare_body(model)


def test_bias_correction_takes_off_the_mean_shift(lite0: Exported) -> None:
    _, spec, body = lite0
    rows = random_rows(64, spec)
    raw, start = start_at_raw_rows(body, spec)
    feed = feed_for(start, spec)
    prepared = prepare_body(raw)
    plain = quantize_body(prepared, ranges_of(prepared, rows, feed), HERE, start=start)
    corrected = onnx.ModelProto()
    corrected.CopyFrom(plain)
    noise = measure_noise(prepared, plain, rows, feed, quantised_inputs=False)
    assert correct_biases(corrected, noise) == sum(len(layer.input) > 2 for layer in layers_of(prepared)) >= 49
    left = measure_noise(prepared, corrected, rows, feed, quantised_inputs=False)
    assert noise.keys() == left.keys()
    reference = logits(prepared, feed(rows))
    shifts = [np.abs((logits(model, feed(rows)) - reference).mean(axis=0)).mean() for model in (plain, corrected)]
    assert shifts[1] < 0.8 * shifts[0]


def test_noise_of_a_layer_is_what_its_rounding_does(resnet: Exported) -> None:
    _, spec, body = resnet
    rows = random_rows(16, spec)
    prepared, model, start = quantised(body, spec, rows, HERE)
    noise = measure_noise(prepared, model, rows, feed_for(start, spec), quantised_inputs=True)
    assert set(noise) == {layer.name for layer in layers_of(prepared)}
    assert all(20 < one.ratio_db < 60 for one in noise.values())
    weights_alone = measure_noise(prepared, model, rows, feed_for(start, spec), quantised_inputs=False)
    worse = [noise[name].ratio_db <= weights_alone[name].ratio_db + 0.5 for name in noise]
    assert sum(worse) > 0.8 * len(worse)


def test_decibels() -> None:
    assert decibels(100.0, 1.0) == pytest.approx(20.0)
    assert decibels(1.0, 0.0) == pytest.approx(120.0)
    assert np.isfinite(decibels(0.0, 0.0))
