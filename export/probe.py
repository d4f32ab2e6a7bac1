"""What quantising does to each layer, measured on a few rows in one pass: every layer of the float body gets a quantised twin beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.calibration import Feed, chunks
from export.graph import input_name
from export.rewrite import opset_of, ranks_of
from fmx.host import usable_cpus
from fmx.progress import progress
from fmx.runtime import open_session

TWIN = "_twin"
AXES_AS_INPUT = 18
"""Opset from which ReduceMean is told its axes by an input."""

ALL_BUT_CHANNELS = {4: [0, 2, 3], 3: [0, 1], 2: [0]}
"""Axes of a convolution's output, or of a sequence's or a vector's linear layer, that are summed over."""


@dataclass(frozen=True)
class Noise:
    """What quantising a layer does to its output."""

    shift: np.ndarray
    """Mean of float output minus quantised output, a channel: float64 [channels]."""
    power: float
    """Mean square of the difference."""
    signal: float
    """Mean square of the float output."""

    @property
    def ratio_db(self) -> float:
        """Signal to noise, in decibels."""
        return decibels(self.signal, self.power)


def decibels(signal: float, noise: float) -> float:
    """Give 10 log10(signal / noise), at most 120."""
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, signal * 1e-12, 1e-30)))


def measure_noise(
    prepared: onnx.ModelProto, quantised: onnx.ModelProto, images: np.ndarray, feed: Feed, *, quantised_inputs: bool
) -> dict[str, Noise]:
    """Measure each quantised layer alone, on what the float body gives it.

    Args:
        prepared: the float body that was quantised.
        quantised: its QDQ form, with the same node names.
        images: raw rows.
        feed: how a body reads them.
        quantised_inputs: round the layer's input too, and not its weights alone.
    """
    probe, layers = _probe_model(prepared, quantised, quantised_inputs=quantised_inputs)
    if not layers:
        return {}
    session = open_session(probe.SerializeToString(), threads=usable_cpus())
    names = [f"{layer}{suffix}" for layer in layers for suffix in ("_shift", "_noise", "_signal")]
    totals: list[Any] = [0.0] * len(names)
    with progress("probing layers", len(images)) as advance:
        for chunk in chunks(images, feed):
            found = session.run(names, {input_name(prepared): chunk})
            totals = [total + np.asarray(value, np.float64) * len(chunk) for total, value in zip(totals, found, strict=True)]
            advance(len(chunk))
    means = [total / len(images) for total in totals]
    return {layer: Noise(means[3 * i], float(means[3 * i + 1]), float(means[3 * i + 2])) for i, layer in enumerate(layers)}


def _probe_model(prepared: onnx.ModelProto, quantised: onnx.ModelProto, *, quantised_inputs: bool) -> tuple[onnx.ModelProto, list[str]]:
    """Add to each layer a twin that reads rounded weights, and three outputs that compare the two."""
    probe = onnx.ModelProto()
    probe.CopyFrom(prepared)
    graph = probe.graph
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    dequantisers = {node.output[0]: node for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    twins = {node.name: node for node in quantised.graph.node}
    ranks, opset = ranks_of(prepared), opset_of(prepared)
    layers = []
    for layer in list(graph.node):
        twin = twins.get(layer.name)
        weights = dequantisers.get(twin.input[1]) if twin is not None and len(twin.input) > 1 else None
        axes = ALL_BUT_CHANNELS.get(ranks.get(layer.output[0], 0))
        if twin is None or twin.op_type != layer.op_type or weights is None or weights.input[0] not in constants or axes is None:
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(layer)
        copy.name, copy.output[0] = layer.name + TWIN, layer.output[0] + TWIN
        copy.input[1] = _add_rounded(graph, weights, constants, layer.name)
        source = dequantisers.get(twin.input[0])
        if quantised_inputs and source is not None:
            copy.input[0] = _add_rounding(graph, source, constants, layer)
        graph.node.append(copy)
        _add_comparison(graph, layer, axes, opset)
        layers.append(layer.name)
    return probe, layers


def _add_rounded(graph: onnx.GraphProto, dequantiser: onnx.NodeProto, constants: dict[str, onnx.TensorProto], layer: str) -> str:
    """Add a layer's integer weights as the floats that they stand for."""
    name = layer + TWIN + "_weights"
    graph.initializer.append(numpy_helper.from_array(dequantised(dequantiser, constants), name))
    return name


def dequantised(dequantiser: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> np.ndarray:
    """Give the floats that a constant's integers stand for: float32, of the constant's shape."""
    integers, scale, zero = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in dequantiser.input)
    axis = next((attribute.i for attribute in dequantiser.attribute if attribute.name == "axis"), 1)
    shape = [1] * integers.ndim
    if scale.ndim and scale.size > 1:
        shape[axis] = -1
    return np.asarray((integers - zero.reshape(shape)) * scale.reshape(shape), np.float32)


def _add_rounding(graph: onnx.GraphProto, source: onnx.NodeProto, constants: dict[str, onnx.TensorProto], layer: onnx.NodeProto) -> str:
    """Add quantisation and dequantisation of a layer's input."""
    stem = layer.name + TWIN + "_input"
    for name, key in ((f"{stem}_scale", source.input[1]), (f"{stem}_zero", source.input[2])):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(constants[key])
        tensor.name = name
        graph.initializer.append(tensor)
    graph.node.append(helper.make_node("QuantizeLinear", [layer.input[0], f"{stem}_scale", f"{stem}_zero"], [f"{stem}_integers"]))
    graph.node.append(helper.make_node("DequantizeLinear", [f"{stem}_integers", f"{stem}_scale", f"{stem}_zero"], [stem]))
    return stem


def _add_comparison(graph: onnx.GraphProto, layer: onnx.NodeProto, axes: list[int], opset: int) -> None:
    output, name = layer.output[0], layer.name
    shift = helper.make_node("ReduceMean", [f"{name}_difference"], [f"{name}_shift"], keepdims=0)
    if opset < AXES_AS_INPUT:
        shift.attribute.append(helper.make_attribute("axes", axes))
    else:
        shift.input.append(f"{name}_axes")
        graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{name}_axes"))
    graph.node.extend(
        [
            helper.make_node("Sub", [output, output + TWIN], [f"{name}_difference"]),
            shift,
            helper.make_node("Mul", [f"{name}_difference", f"{name}_difference"], [f"{name}_squares"]),
            helper.make_node("ReduceMean", [f"{name}_squares"], [f"{name}_noise"], keepdims=0),
            helper.make_node("Mul", [output, output], [f"{name}_power"]),
            helper.make_node("ReduceMean", [f"{name}_power"], [f"{name}_signal"], keepdims=0),
        ]
    )
    graph.output.extend(helper.make_tensor_value_info(f"{name}{suffix}", onnx.TensorProto.FLOAT, None) for suffix in ("_shift", "_noise", "_signal"))
