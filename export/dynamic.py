"""Dynamic int8: weights are int8, activations are quantised as they come. Right where matrix products of sequences are most of the work.

Convolutions have no fast dynamic kernel in ONNX Runtime, so a model that has many is refused (onnxruntime#12558, #15888).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.quantize import LAYERS, Scheme, runtime_errors

SHARE_OF_PRODUCTS = 0.8
"""Of all weights, so many must be in matrix products."""

OPERATORS = ["MatMul", "Gemm"]


def can_be_dynamic(body: onnx.ModelProto) -> bool:
    """Say whether most of a model's weights are in matrix products that run more than once (a head's alone do not count)."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in body.graph.initializer}
    layers = [node for node in body.graph.node if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in sizes]
    total = sum(sizes[node.input[1]] for node in layers)
    products = [sizes[node.input[1]] for node in layers if node.op_type in OPERATORS]
    return len(products) > 4 and sum(products) >= SHARE_OF_PRODUCTS * total


def quantize_dynamically(body: onnx.ModelProto, scheme: Scheme) -> onnx.ModelProto:
    """Quantise the weights of matrix products to int8.

    Raises:
        ExportError: ONNX Runtime cannot quantise it.
    """
    with tempfile.TemporaryDirectory(prefix="fmx-dynamic-") as name, runtime_errors("quantise"):
        source, target = Path(name) / "body.onnx", Path(name) / "dynamic.onnx"
        onnx.save(_as_prepared(body), source)
        options = {"per_channel": scheme.per_channel, "reduce_range": scheme.reduce_range, "weight_type": QuantType.QInt8}
        quantize_dynamic(str(source), str(target), op_types_to_quantize=OPERATORS, **options)
        quantised = onnx.load(target)
        del quantised.metadata_props[:]
        return quantised


def _as_prepared(body: onnx.ModelProto) -> onnx.ModelProto:
    """Say in a copy that nothing is left to prepare: ONNX Runtime would warn on the user's screen.

    Notes on the shapes of weights are left out: ONNX Runtime 1.30 turns a Gemm's weights around and then stumbles over the note.
    """
    said = onnx.ModelProto()
    said.CopyFrom(body)
    weights = {tensor.name for tensor in said.graph.initializer}
    notes = [value for value in said.graph.value_info if value.name not in weights]
    del said.graph.value_info[:]
    said.graph.value_info.extend(notes)
    helper.set_model_props(said, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return said
