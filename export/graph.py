"""From the eager network to ONNX: the body through torch.onnx, and around it the preprocessing and softmax that make raw rows its input.

The body is exported alone (normalised float rows to logits) because that is what is quantised; `serving_graph` then wraps either body.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from finetune.network import Network
from fmx.contract import ImageInput, ModelContract
from fmx.errors import ExportError

ROWS = "images"
NORMALISED = "normalised"
LOGITS = "logits"
BATCH = "batch"


def export_body(network: Network, spec: ImageInput, opset: int) -> onnx.ModelProto:
    """Export the body: `normalised` float32 [batch, 3, height, width] to `logits` float32 [batch, classes], the batch axis dynamic.

    Raises:
        ExportError: torch cannot export the model, wrote another opset than asked, or lost the dynamic batch.
    """
    body = network.body.cpu().eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, spec.height, spec.width)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                body,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                dynamic_shapes=({0: BATCH},),
                input_names=[NORMALISED],
                output_names=[LOGITS],
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever its passes raise
        raise ExportError(f"torch.onnx cannot export this model: {str(error).splitlines()[0]}", hint="fmx --debug export shows where.") from error
    if program is None:
        raise ExportError("torch.onnx returned no graph.", hint="fmx --debug export shows more.")
    model = onnx.load_from_string(program.model_proto.SerializeToString())
    _check_opset(model, opset)
    _check_batch_axis(model)
    return strip_metadata(model)


@contextlib.contextmanager
def _quiet_exporter():  # type: ignore[no-untyped-def]
    """Keep the exporter's progress lines and deprecation warnings off the user's screen; errors still raise."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _check_opset(model: onnx.ModelProto, asked: int) -> None:
    written = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if written != asked:
        raise ExportError(f"Opset {asked} was asked for and torch.onnx wrote {written}.", hint=f"Use --opset {written}.")


def _check_batch_axis(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param != BATCH:
            raise ExportError(f"The batch axis of {value.name} is not dynamic in the exported graph.", hint="This model cannot be batched by fmx.")


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


def serving_graph(body: onnx.ModelProto, contract: ModelContract, contract_digest: str, *, rows_are_quantised: bool = False) -> onnx.ModelProto:
    """Wrap a body so that it takes raw rows and gives probabilities: uint8 [batch, height, width, 3] to float32 [batch, labels].

    Args:
        body: from `export_body`, or its quantised form.
        contract: written into the file's metadata with its digest.
        contract_digest: see `fmx.package.contract_digest`.
        rows_are_quantised: the body was quantised with `quantize.input_quantisation(spec)`, so a raw row already is its first
            activation, and neither float normalisation nor quantisation of the input is needed.
    """
    model = onnx.ModelProto()
    model.CopyFrom(body)
    graph, spec = model.graph, contract.input
    transposed = "rows_chw"
    before = [helper.make_node("Transpose", [ROWS], [transposed], "rows_to_channels_first", perm=[0, 3, 1, 2])]
    if rows_are_quantised:
        _feed_quantised_rows(graph, transposed)
    else:
        before += _normalising_nodes(graph, spec, transposed)
    after = [helper.make_node("Softmax", [LOGITS], [contract.output.name], "probabilities_of_logits", axis=-1)]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(ROWS, TensorProto.UINT8, [BATCH, spec.height, spec.width, 3]))
    graph.output.append(helper.make_tensor_value_info(contract.output.name, TensorProto.FLOAT, [BATCH, len(contract.labels)]))
    graph.name = contract.task
    model.producer_name, model.producer_version = "fmx", ""
    strip_metadata(model)
    helper.set_model_props(model, {"fmx.task": contract.task, "fmx.labels": "\n".join(contract.labels), "fmx.contract_digest": contract_digest})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported graph is not valid ONNX: {str(error).splitlines()[0]}", hint="fmx --debug export shows more.") from error
    return model


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


def _feed_quantised_rows(graph: onnx.GraphProto, source: str) -> None:
    """Take out the QuantizeLinear of the input and give its consumers the raw rows: with the scale 1/std and zero point mean, they are equal."""
    quantisers = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == NORMALISED]
    readers = [node for node in graph.node if NORMALISED in node.input]
    if len(quantisers) != 1 or len(readers) != 1:
        raise ExportError("The quantised graph reads its input in more than one place.", hint="Export with --quantize none.")
    quantised = quantisers[0].output[0]
    graph.node.remove(quantisers[0])
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == quantised:
                node.input[i] = source
