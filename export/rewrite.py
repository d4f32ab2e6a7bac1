"""Graph passes before quantisation, one function each, named verb_object. A pass changes the model in place and says how often it did."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

FACTOR = "hard_factor"


def pool_reduced_maps(model: onnx.ModelProto) -> int:
    """Write `ReduceMean` over both spatial axes as `GlobalAveragePool` (and a Flatten where the axes are dropped).

    torch's dynamo exporter writes adaptive pooling as ReduceMean, which ONNX Runtime cannot quantise, so every
    squeeze-and-excite block and the head would be a float island.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = ranks_of(model)
    changed = 0
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4 or _reduced_axes(node, constants) != {2, 3}:
            continue
        keeps = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        output = node.output[0]
        pooled = output if keeps else f"{output}_pooled"
        new = [helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], node.name)]
        if not keeps:
            new.append(helper.make_node("Flatten", [pooled], [output], f"{node.name}_flatten", axis=1))
        del graph.node[position]
        for offset, replacement in enumerate(new):
            graph.node.insert(position + offset, replacement)
        changed += 1
    if changed:
        drop_unused_constants(model)
    return changed


def open_hard_activations(model: onnx.ModelProto) -> int:
    """Write HardSwish and HardSigmoid as Add, Clip and Mul, which quantise; ONNX Runtime has no int8 kernel for either.

    HardSigmoid(x) is `a * clip(x + b / a, 0, 1 / a)`, HardSwish(x) is `x * HardSigmoid(x)` with a = 1/6 and b = 1/2. The factor a costs nothing
    once quantised: `absorb_factors` moves it into a scale.
    """
    graph = model.graph
    changed = 0
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type not in ("HardSwish", "HardSigmoid"):
            continue
        attributes = {attribute.name: attribute.f for attribute in node.attribute}
        slope, offset = (1 / 6, 0.5) if node.op_type == "HardSwish" else (attributes.get("alpha", 0.2), attributes.get("beta", 0.5))
        if slope <= 0:
            continue
        (x,), (y,), stem = node.input, node.output, node.output[0]
        constants = {"offset": offset / slope, "low": 0.0, "high": 1 / slope, FACTOR: slope}
        graph.initializer.extend(numpy_helper.from_array(np.array(value, np.float32), f"{stem}_{name}") for name, value in constants.items())
        product = [helper.make_node("Mul", [x, f"{stem}_clipped"], [f"{stem}_product"], f"{stem}_multiply")]
        gate = node.op_type == "HardSigmoid"
        new = [
            helper.make_node("Add", [x, f"{stem}_offset"], [f"{stem}_shifted"], f"{stem}_shift"),
            helper.make_node("Clip", [f"{stem}_shifted", f"{stem}_low", f"{stem}_high"], [f"{stem}_clipped"], f"{stem}_clip"),
            *([] if gate else product),
            helper.make_node("Mul", [f"{stem}_clipped" if gate else f"{stem}_product", f"{stem}_{FACTOR}"], [y], f"{stem}_scale"),
        ]
        del graph.node[position]
        for step, replacement in enumerate(new):
            graph.node.insert(position + step, replacement)
        changed += 1
    return changed


def absorb_factors(quantised: onnx.ModelProto) -> int:
    """Take out the multiplications by `open_hard_activations`' factors from a QDQ graph, by quantising what they multiply on another scale.

    Quantise(y, s1) - Dequantise - Mul(f) - Quantise(s2) is Quantise(y, s2 / f) followed by whatever reads the result at s2.
    """
    graph = quantised.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    doomed: list[onnx.NodeProto] = []
    for node in graph.node:
        chain = _factor_chain(node, makers, readers) if node.op_type == "Mul" else None
        if chain is None:
            continue
        first, dequantiser, factor, second = chain
        value = numpy_helper.to_array(constants[factor.input[0]]).astype(np.float32) - numpy_helper.to_array(constants[factor.input[2]])
        value = value * numpy_helper.to_array(constants[factor.input[1]])
        scale = (numpy_helper.to_array(constants[second.input[1]]) / value).astype(np.float32)
        name = f"{first.output[0]}_absorbed_scale"
        graph.initializer.append(numpy_helper.from_array(scale.reshape(()), name))
        first.input[1], first.input[2] = name, second.input[2]
        for reader in readers[second.output[0]]:
            reader.input[0] = first.output[0]
        doomed += [dequantiser, node, second, *([factor] if len(readers[factor.output[0]]) == 1 else [])]
    for node in doomed:
        graph.node.remove(node)
    if doomed:
        drop_unused_constants(quantised)
    return len(doomed)


Chain = tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto, onnx.NodeProto]


def _factor_chain(multiply: onnx.NodeProto, makers: dict[str, onnx.NodeProto], readers: dict[str, list[onnx.NodeProto]]) -> Chain | None:
    """Find (Quantise, Dequantise, the factor's Dequantise, Quantise) around a multiplication by a factor, or None."""
    inputs = [makers.get(name) for name in multiply.input]
    second = readers.get(multiply.output[0], [])
    if any(node is None or node.op_type != "DequantizeLinear" for node in inputs) or [node.op_type for node in second] != ["QuantizeLinear"]:
        return None
    dequantiser, factor = (node for node in inputs if node is not None)
    first = makers.get(dequantiser.input[0])
    if f"_{FACTOR}" not in factor.input[0] or first is None or first.op_type != "QuantizeLinear":
        return None
    if len(readers[first.output[0]]) != 1 or len(readers[dequantiser.output[0]]) != 1:
        return None
    if any(reader.op_type != "DequantizeLinear" for reader in readers.get(second[0].output[0], [])):
        return None
    return first, dequantiser, factor, second[0]


def drop_unused_constants(model: onnx.ModelProto) -> int:
    """Take out initializers that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    dropped = len(model.graph.initializer) - len(kept)
    if dropped:
        tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors)
    return dropped


def ranks_of(model: onnx.ModelProto) -> dict[str, int]:
    """Give the number of axes of every tensor whose shape can be inferred."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


def opset_of(model: onnx.ModelProto) -> int:
    """Give the version of ONNX's own operators that a model uses."""
    return int(next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")))


def _reduced_axes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> set[int]:
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).ravel().tolist()
    else:
        axes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), [])
    return {int(axis) % 4 for axis in axes}
