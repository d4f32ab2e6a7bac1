"""Bias correction: rounding weights to int8 shifts a layer's mean output; the shift is measured on calibration rows and taken off its bias.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721), in its empirical form: each
layer sees the float activations, so all layers are measured in one pass. ONNX Runtime has no such step.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from export.probe import Noise


def correct_biases(quantised: onnx.ModelProto, noise: dict[str, Noise]) -> int:
    """Correct the int32 biases of quantised layers in place and return how many were corrected.

    Args:
        quantised: a QDQ model.
        noise: of its layers with float inputs, from `export.probe.measure_noise`.
    """
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    dequantisers = {node.output[0]: node for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    corrected = 0
    for layer in quantised.graph.node:
        measured = noise.get(layer.name)
        dequantiser = dequantisers.get(layer.input[2]) if measured is not None and len(layer.input) > 2 else None
        if measured is None or dequantiser is None:
            continue
        bias, scale = constants[dequantiser.input[0]], numpy_helper.to_array(constants[dequantiser.input[1]])
        steps = numpy_helper.to_array(bias).astype(np.float64) + measured.shift / scale
        limits = np.iinfo(np.int32)
        bias.CopyFrom(numpy_helper.from_array(np.clip(np.rint(steps), limits.min, limits.max).astype(np.int32), bias.name))
        corrected += 1
    return corrected
