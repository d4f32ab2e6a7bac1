"""fp16 for CUDA: weights and arithmetic in half precision, inputs and outputs as they were."""

from __future__ import annotations

import onnx
from onnx import TensorProto
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.quantize import runtime_errors


def halve_body(body: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a float body to fp16 with float32 input and output.

    Casts to float inside the body are turned into casts to fp16: ONNX Runtime's converter leaves them, and the types around them then clash
    (onnxconverter-common#304).

    Raises:
        ExportError: it cannot be converted.
    """
    model = onnx.ModelProto()
    model.CopyFrom(body)
    inner = {node.name for node in model.graph.node if node.op_type == "Cast"}
    with runtime_errors("convert to fp16"):
        half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
        ONNXModel(half).topological_sort()  # the converter puts the casts of the input at the end
    for node in half.graph.node:
        if node.op_type == "Cast" and node.name in inner:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
    del half.graph.value_info[:]
    return half
