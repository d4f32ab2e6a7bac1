"""A body (prepared rows to logits) as a graph that serves: raw rows in, probabilities out, the contract in its metadata.

The body is exported alone (export/exporter.py) because that is what is quantised; `serving_graph` then wraps either form of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fmx.contract import ImageInput, Input, ModelContract, SeveralOutput, TagsOutput
from fmx.errors import ExportError, first_line
from fmx.tasks import TextClassification

if TYPE_CHECKING:
    from export.start import Start

ROWS = "images"
NORMALISED = "normalised"
LOGITS = "logits"
BATCH, SEQUENCE = "batch", "sequence"


def input_of(spec: Input) -> str:
    """Name what a body reads: normalised rows of images, or the token ids of texts as they are."""
    return NORMALISED if isinstance(spec, ImageInput) else TextClassification.input_name


def input_name(body: onnx.ModelProto) -> str:
    """Name the input of a body."""
    return str(body.graph.input[0].name)


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out what exporters leave for debugging: stack traces, source paths, doc strings and unused opset imports. Changes and returns `model`."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    used = {node.domain or "" for node in graph.node}
    kept = [item for item in model.opset_import if (item.domain or "") in used or item.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def serving_graph(body: onnx.ModelProto, contract: ModelContract, contract_digest: str, start: Start | None = None) -> onnx.ModelProto:
    """Wrap a body so that it takes raw rows and gives probabilities.

    Images: uint8 [batch, height, width, 3] to float32 [batch, labels]. Texts: int64 [batch, sequence] to the same, or of tokens to float32
    [batch, sequence, labels], and where the contract has an embedding to float32 [batch, width], which the body gives.

    Args:
        body: from `export_body`, or its quantised form.
        contract: written into the file's metadata with its digest.
        contract_digest: see `fmx.package.contract_digest`.
        start: the body was quantised to read raw rows (`export.start`), so neither float normalisation nor quantisation of the input is
            needed.

    Raises:
        ExportError: the graph is not valid ONNX.
    """
    model = onnx.ModelProto()
    model.CopyFrom(body)
    graph, spec = model.graph, contract.input
    before: list[onnx.NodeProto] = []
    if isinstance(spec, ImageInput):
        rows = helper.make_tensor_value_info(ROWS, TensorProto.UINT8, [BATCH, spec.height, spec.width, 3])
        before = _reading_nodes(graph, spec, start)
    else:
        rows = helper.make_tensor_value_info(TextClassification.input_name, TensorProto.INT64, [BATCH, SEQUENCE])
    after = [helper.make_node("Softmax", [LOGITS], [contract.output.name], "probabilities_of_logits", axis=-1)]
    if isinstance(contract.output, SeveralOutput):
        after = [helper.make_node("Sigmoid", [LOGITS], [contract.output.name], "probabilities_of_logits")]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(rows)
    places = [BATCH, SEQUENCE] if isinstance(contract.output, TagsOutput) else [BATCH]
    graph.output.append(helper.make_tensor_value_info(contract.output.name, TensorProto.FLOAT, [*places, len(contract.labels)]))
    if contract.embedding is not None:
        graph.output.append(helper.make_tensor_value_info(contract.embedding.name, TensorProto.FLOAT, [BATCH, contract.embedding.width]))
    graph.name = contract.task
    del graph.value_info[:]  # a quantiser's notes on shapes need not hold any more
    model.producer_name, model.producer_version = "fmx", ""
    strip_metadata(model)
    helper.set_model_props(model, {"fmx.task": contract.task, "fmx.labels": "\n".join(contract.labels), "fmx.contract_digest": contract_digest})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported graph is not valid ONNX: {first_line(error)}", hint="fmx --debug export shows more.") from error
    return model


def _reading_nodes(graph: onnx.GraphProto, spec: ImageInput, start: Start | None) -> list[onnx.NodeProto]:
    """Give what stands between raw rows of images and the body."""
    transposed = "rows_chw"
    nodes = [helper.make_node("Transpose", [ROWS], [transposed], "rows_to_channels_first", perm=[0, 3, 1, 2])]
    if start is None:
        return nodes + _normalising_nodes(graph, spec, transposed)
    if start.constant is not None:
        nodes = [*_constant_channel(graph, start.constant), *nodes]
        nodes[-1].input[0] = "rows_with_constant"
    return nodes + _feed_quantised_rows(graph, transposed, start)


def _constant_channel(graph: onnx.GraphProto, pixel: int) -> list[onnx.NodeProto]:
    """Give every pixel of the raw rows a fourth, constant channel."""
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 0, 1], np.int64), "one_channel_behind"),
            numpy_helper.from_array(np.array(pixel, np.uint8), "constant_pixel"),
        ]
    )
    return [helper.make_node("Pad", [ROWS, "one_channel_behind", "constant_pixel"], ["rows_with_constant"], "append_constant_channel")]


def _normalising_nodes(graph: onnx.GraphProto, spec: ImageInput, source: str) -> list[onnx.NodeProto]:
    shape = (1, 3, 1, 1)
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(spec.mean, np.float32).reshape(shape), "pixel_mean"),
            numpy_helper.from_array(np.array(spec.std, np.float32).reshape(shape), "pixel_std"),
        ]
    )
    return [
        helper.make_node("Cast", [source], ["rows_float"], "rows_to_float", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["rows_float", "pixel_mean"], ["rows_centred"], "subtract_mean"),
        helper.make_node("Div", ["rows_centred", "pixel_std"], [NORMALISED], "divide_by_std"),
    ]


def _feed_quantised_rows(graph: onnx.GraphProto, source: str, start: Start) -> list[onnx.NodeProto]:
    """Take out the QuantizeLinear of the input and give its consumers the raw rows: with the scale 1/std and zero point mean, they are equal.

    Returns:
        What a first layer that stays float reads: the rows dequantised. Nothing where all that reads them is quantised.
    """
    for quantiser in [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == NORMALISED]:
        graph.node.remove(quantiser)
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name == quantiser.output[0]:
                    node.input[i] = source
    if not any(NORMALISED in node.input for node in graph.node):
        return []
    scale = numpy_helper.from_array(np.array(start.scale, np.float32), "rows_scale")
    zero_point = numpy_helper.from_array(np.array(start.zero_point, np.uint8), "rows_zero_point")
    graph.initializer.extend([scale, zero_point])
    return [helper.make_node("DequantizeLinear", [source, scale.name, zero_point.name], [NORMALISED], "dequantise_rows")]
