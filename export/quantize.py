"""Static int8 as QDQ: a float body, the ranges of its activations and a choice of how, in; a quantised body out.

What is chosen, and by which measure, is export/search.py's.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quant_pre_process
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from export.calibration import Ranges
from export.graph import NORMALISED
from export.rewrite import absorb_factors, open_hard_activations
from export.start import Start
from fmx.errors import ExportError, foreign_errors

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with weights."""


@dataclass(frozen=True)
class Scheme:
    """How numbers are written. Which of them a CPU multiplies exactly and fast: export/target.py."""

    activations: str = "uint8"
    weights: str = "int8"
    per_channel: bool = True
    reduce_range: bool = False
    """7-bit weights: without VNNI, x86 adds two products of 8 x 8 bits in 16 bits, which saturates."""
    operators: tuple[str, ...] = ()
    """Those that are quantised; empty: all that ONNX Runtime can. In a transformer the additions of a mask, whose range is that of all floats,
    must stay float."""
    float_outputs: bool = False
    """Whether matrix products read int8 and give floats: what stands between those of a transformer is float, and would have to undo int8."""

    def as_recipe(self) -> dict[str, Any]:
        """Give what the manifest says about it."""
        return {"method": "static", "format": "QDQ", **asdict(self)}


PRODUCTS = ["MatMul", "Gemm"]
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


def runtime_errors(doing: str) -> AbstractContextManager[None]:
    """Translate what ONNX Runtime's tools raise while they are `doing` something with a model."""
    return foreign_errors(ExportError, f"ONNX Runtime cannot {doing} this model", "Use --quantize none.")


def prepare_body(body: onnx.ModelProto) -> onnx.ModelProto:
    """Bring a float body into the form that is quantised: hard activations opened, batch norms folded, constants folded.

    Raises:
        ExportError: ONNX Runtime cannot read it, or left a batch norm behind a convolution (it only logs when its optimisation fails).
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(body)
    open_hard_activations(opened)
    with tempfile.TemporaryDirectory(prefix="fmx-prepare-") as name, runtime_errors("quantise"):
        folder = Path(name)
        onnx.save(opened, folder / "body.onnx")
        quant_pre_process(str(folder / "body.onnx"), str(folder / "prepared.onnx"), skip_symbolic_shape=True)
        prepared = onnx.load(folder / "prepared.onnx")
    _check_folded(prepared)
    return prepared


def layers_of(prepared: onnx.ModelProto) -> list[onnx.NodeProto]:
    """List the nodes that have constant weights, in graph order."""
    constants = {tensor.name for tensor in prepared.graph.initializer}
    return [node for node in prepared.graph.node if node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in constants]


def quantize_body(
    prepared: onnx.ModelProto, ranges: Ranges, scheme: Scheme, *, start: Start | None = None, keep_float: tuple[str, ...] = ()
) -> onnx.ModelProto:
    """Quantise a prepared body.

    Args:
        prepared: from `prepare_body`; `normalised` to `logits`. It is not changed.
        ranges: of its activations, from `export.calibration.collect_ranges`.
        scheme: how numbers are written.
        start: the input's scale and zero point are exactly these.
        keep_float: names of nodes that stay float.

    Returns:
        A QDQ model with the same input, output and node names.

    Raises:
        ExportError: ONNX Runtime cannot quantise it, or the result holds float weights where it should not.
    """
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    found = {name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    with runtime_errors("quantise"):
        quantiser = QDQQuantizer(
            model,
            scheme.per_channel,
            scheme.reduce_range,
            TYPES[scheme.weights],
            TYPES[scheme.activations],
            found,
            [],
            [*keep_float, *(_without_weights(prepared) if scheme.float_outputs else ())],
            list(scheme.operators) or sorted({*QLinearOpsRegistry, *QDQRegistry}),
            _options(start, scheme),
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
        quantised: onnx.ModelProto = quantiser.model.model
    absorb_factors(quantised)
    check_quantised(quantised, keep_float)
    return quantised


def _options(start: Start | None, scheme: Scheme) -> dict[str, Any]:
    """Give the input its own scale and zero point; raw rows are bytes, whatever the scheme's activations are."""
    options: dict[str, Any] = {"OpTypesToExcludeOutputQuantization": PRODUCTS} if scheme.float_outputs else {}
    if start is None:
        return options
    scale, zero = np.array(start.scale, np.float32), np.array(start.zero_point, np.uint8)
    return {**options, "TensorQuantOverrides": {NORMALISED: [{"quant_type": QuantType.QUInt8, "scale": scale, "zero_point": zero}]}}


def _without_weights(prepared: onnx.ModelProto) -> list[str]:
    """Name the matrix products of two activations, as attention has them."""
    layers = {node.name for node in layers_of(prepared)}
    return [node.name for node in prepared.graph.node if node.op_type in PRODUCTS and node.name not in layers]


def _check_folded(model: onnx.ModelProto) -> None:
    readers = Counter(name for node in model.graph.node for name in node.input)
    convolved = {node.output[0] for node in model.graph.node if node.op_type == "Conv" and readers[node.output[0]] == 1}
    left = [node.name for node in model.graph.node if node.op_type == "BatchNormalization" and node.input[0] in convolved]
    if left:
        raise ExportError(f"{len(left)} batch norms were not folded into their convolutions ({left[0]}, ...).", hint="Use --quantize none.")


def check_quantised(model: onnx.ModelProto, keep_float: tuple[str, ...]) -> None:
    """Refuse an int8 body whose weights are float: a failure that looks like a success.

    Args:
        model: a quantised body.
        keep_float: the layers that were meant to stay float.

    Raises:
        ExportError: more than a tenth of the other layers read float weights.
    """
    float_weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1}
    layers = [node for node in model.graph.node if node.op_type in LAYERS and node.name not in keep_float]
    left = [node for node in layers if len(node.input) > 1 and node.input[1] in float_weights]
    if layers and len(left) > 0.1 * len(layers):
        raise ExportError(f"{len(left)} of {len(layers)} layers kept float weights.", hint="This model cannot be quantised as it is.")
