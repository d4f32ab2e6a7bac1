"""Graph passes before quantisation, one function each, named verb_object. A pass changes the model in place and says how often it did."""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper


def pool_reduced_maps(model: onnx.ModelProto) -> int:
    """Write `ReduceMean` over both spatial axes as `GlobalAveragePool` (and a Flatten where the axes are dropped).

    torch's dynamo exporter writes adaptive pooling as ReduceMean, which ONNX Runtime cannot quantise, so every
    squeeze-and-excite block and the head would be a float island.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = _ranks(model)
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


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


def _reduced_axes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> set[int]:
    if len(node.input) > 1 and node.input[1] in constants:
        axes = numpy_helper.to_array(constants[node.input[1]]).ravel().tolist()
    else:
        axes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), [])
    return {int(axis) % 4 for axis in axes}
