"""Bias correction: rounding weights to int8 shifts a layer's mean output; the shift is measured on calibration rows and taken off its bias.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721), in its empirical form: each
layer sees the float activations, so all layers are measured in one pass. ONNX Runtime has no such step.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.calibration import chunks
from export.graph import NORMALISED
from fmx.contract import ImageInput
from fmx.host import usable_cpus
from fmx.progress import progress
from fmx.runtime import open_session

ROUNDED = "_rounded"


def correct_biases(prepared: onnx.ModelProto, quantised: onnx.ModelProto, images: np.ndarray, spec: ImageInput) -> int:
    """Correct the int32 biases of the quantised convolutions in place and return how many were corrected.

    Args:
        prepared: the float model that was quantised.
        quantised: its QDQ form, with the same node names.
        images: calibration rows, uint8 [n, height, width, 3].
        spec: how they are normalised.
    """
    weights = _rounded_weights(quantised)
    layers = [node for node in prepared.graph.node if node.op_type == "Conv" and len(node.input) == 3 and node.name in weights]
    if not layers:
        return 0
    shifts = _mean_shifts(prepared, layers, weights, images, spec)
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    dequantisers = {node.output[0]: node for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    named = {node.name: node for node in quantised.graph.node}
    corrected = 0
    for layer in layers:
        dequantiser = dequantisers.get(named[layer.name].input[2])
        if dequantiser is None:
            continue
        bias, scale = constants[dequantiser.input[0]], numpy_helper.to_array(constants[dequantiser.input[1]])
        steps = numpy_helper.to_array(bias).astype(np.float64) + shifts[layer.name] / scale
        limits = np.iinfo(np.int32)
        bias.CopyFrom(numpy_helper.from_array(np.clip(np.rint(steps), limits.min, limits.max).astype(np.int32), bias.name))
        corrected += 1
    return corrected


def _rounded_weights(quantised: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Give each convolution's int8 weights as the floats that they stand for: {node name: float32 [out, in, kh, kw]}."""
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    dequantisers = {node.output[0]: node for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    rounded = {}
    for node in quantised.graph.node:
        source = dequantisers.get(node.input[1]) if node.op_type == "Conv" else None
        if source is None or source.input[0] not in constants:
            continue
        integers, scale, zero = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in source.input)
        shape = (-1,) + (1,) * (integers.ndim - 1) if scale.ndim else ()
        rounded[node.name] = (integers - zero.reshape(shape)) * scale.reshape(shape)
    return rounded


def _mean_shifts(
    prepared: onnx.ModelProto, layers: list[onnx.NodeProto], weights: dict[str, np.ndarray], images: np.ndarray, spec: ImageInput
) -> dict[str, np.ndarray]:
    """Give, for each layer, the mean of (float output - output with rounded weights) a channel, both on float inputs: {name: float64 [out]}."""
    probe = _probe_model(prepared, layers, weights)
    session = open_session(probe.SerializeToString(), threads=usable_cpus())
    names = [layer.output[0] + "_shift" for layer in layers]
    totals = [np.zeros(len(weights[layer.name]), np.float64) for layer in layers]
    with progress("correcting biases", len(images)) as advance:
        for chunk in chunks(images, spec):
            for total, shift in zip(totals, session.run(names, {NORMALISED: chunk}), strict=True):
                total += np.asarray(shift, np.float64) * len(chunk)
            advance(len(chunk))
    return {layer.name: total / len(images) for layer, total in zip(layers, totals, strict=True)}


def _probe_model(prepared: onnx.ModelProto, layers: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Add to each layer a twin with the rounded weights and the channel means of their difference as an output."""
    probe = onnx.ModelProto()
    probe.CopyFrom(prepared)
    graph = probe.graph
    graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), "shift_axes"))
    for layer in layers:
        output = layer.output[0]
        twin = onnx.NodeProto()
        twin.CopyFrom(layer)
        twin.name += ROUNDED
        twin.input[1], twin.output[0] = layer.name + ROUNDED, output + ROUNDED
        graph.initializer.append(numpy_helper.from_array(weights[layer.name], layer.name + ROUNDED))
        graph.node.append(twin)
        graph.node.append(helper.make_node("Sub", [output, output + ROUNDED], [output + "_difference"]))
        graph.node.append(helper.make_node("ReduceMean", [output + "_difference", "shift_axes"], [output + "_shift"], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(output + "_shift", onnx.TensorProto.FLOAT, None))
    return probe
