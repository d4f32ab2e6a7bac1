"""Static int8 for x86: QDQ, uint8 activations, int8 weights per channel, calibrated on training rows, biases corrected.

S8S8, ONNX Runtime's default, leaves half of a MobileNet in float on x86 (docs/decisions.md); uint8 activations fuse completely.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

from export.bias_correction import correct_biases
from export.calibration import RowReader
from export.graph import NORMALISED
from fmx.contract import ImageInput
from fmx.errors import ExportError, first_line
from fmx.progress import progress

RECIPE: dict[str, Any] = {
    "method": "static",
    "format": "QDQ",
    "activations": "uint8",
    "weights": "int8",
    "per_channel": True,
    "ranges": "minmax",
    "bias_correction": True,
}


def input_quantisation(spec: ImageInput) -> tuple[float, int] | None:
    """Give the (scale, zero point) under which a raw uint8 row is the quantised normalised row, or None.

    Normalisation with one mean and one std is `(pixel - mean) / std`, and dequantisation is `(q - zero_point) * scale`: for a whole mean
    they are the same function.
    """
    mean, std = spec.mean[0], spec.std[0]
    if spec.mean != (mean,) * 3 or spec.std != (std,) * 3 or mean != int(mean) or not 0 <= mean <= 255:
        return None
    return 1.0 / std, int(mean)


def quantize_body(body: onnx.ModelProto, images: np.ndarray, spec: ImageInput) -> onnx.ModelProto:
    """Quantise an exported body.

    Args:
        body: float, `normalised` to `logits`.
        images: calibration rows, uint8 [n, height, width, 3].
        spec: how they are normalised.

    Returns:
        A QDQ model with the same input and output.

    Raises:
        ExportError: ONNX Runtime cannot quantise it, or the result holds float weights where it should not.
    """
    with tempfile.TemporaryDirectory(prefix="fmx-int8-") as name:
        folder = Path(name)
        prepared_file, quantised_file = folder / "prepared.onnx", folder / "int8.onnx"
        onnx.save(body, folder / "body.onnx")
        try:
            quant_pre_process(str(folder / "body.onnx"), str(prepared_file), skip_symbolic_shape=True)
            prepared = onnx.load(prepared_file)
            _check_folded(prepared)
            with progress("calibrating", len(images)) as advance:
                quantize_static(
                    str(prepared_file),
                    str(quantised_file),
                    RowReader(images, spec, advance),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    per_channel=True,
                    extra_options=_options(spec),
                )
        except ExportError:
            raise
        except Exception as error:  # onnxruntime's quantiser raises plain exceptions of many kinds
            raise ExportError(f"ONNX Runtime cannot quantise this model: {first_line(error)}", hint="Use --quantize none.") from error
        quantised = onnx.load(quantised_file)
    correct_biases(prepared, quantised, images, spec)
    _check_quantised(quantised)
    return quantised


def _options(spec: ImageInput) -> dict[str, Any]:
    exact = input_quantisation(spec)
    if exact is None:
        return {}
    override = {"quant_type": QuantType.QUInt8, "scale": np.array(exact[0], np.float32), "zero_point": np.array(exact[1], np.uint8)}
    return {"TensorQuantOverrides": {NORMALISED: [override]}}


def _check_folded(model: onnx.ModelProto) -> None:
    """ONNX Runtime only logs when its optimisation fails; a batch norm that is left behind a Conv tells."""
    convolved = {node.output[0] for node in model.graph.node if node.op_type == "Conv"}
    left = [node.name for node in model.graph.node if node.op_type == "BatchNormalization" and node.input[0] in convolved]
    if left:
        raise ExportError(f"{len(left)} batch norms were not folded into their convolutions ({left[0]}, ...).", hint="Use --quantize none.")


def _check_quantised(model: onnx.ModelProto) -> None:
    """An int8 file whose weights are float is a failure that looks like a success."""
    float_weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    left = [node for node in layers if len(node.input) > 1 and node.input[1] in float_weights]
    if layers and len(left) > 0.1 * len(layers):
        raise ExportError(f"{len(left)} of {len(layers)} layers kept float weights.", hint="This model cannot be quantised as it is.")
