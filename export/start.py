"""How an int8 graph starts: the raw uint8 row already is the quantised activation that its first convolution reads.

Normalisation is `(pixel - mean) / std`, dequantisation `(q - zero_point) * scale`. With one whole mean and one std they are the same function.
With a mean and a std a channel, the stds move into the first convolution's weights, and what the means differ from the zero point moves into
its bias; where the convolution pads, a bias would be wrong at the border, so a fourth channel of one constant pixel value carries it, which
the padding cuts off exactly as it cuts the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from export.graph import NORMALISED
from fmx.contract import ImageInput


@dataclass(frozen=True)
class Start:
    """What a body reads in place of normalised rows: `(pixel - zero_point) * scale`, and a constant fourth channel where one is needed."""

    scale: float
    zero_point: int
    constant: int | None = None
    """Pixel value of the fourth channel."""

    def feed(self, images: np.ndarray) -> np.ndarray:
        """Dequantise rows: uint8 [n, h, w, 3] to float32 [n, 3 or 4, h, w]."""
        rows = images.transpose(0, 3, 1, 2)
        if self.constant is not None:
            rows = np.concatenate([rows, np.full_like(rows[:, :1], self.constant)], axis=1)
        return np.ascontiguousarray((rows.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale))


def normalised(images: np.ndarray, spec: ImageInput) -> np.ndarray:
    """Normalise rows as a float graph does: uint8 [n, h, w, 3] to float32 [n, 3, h, w]."""
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))


def start_at_raw_rows(body: onnx.ModelProto, spec: ImageInput) -> tuple[onnx.ModelProto, Start | None]:
    """Rewrite a float body so that it reads dequantised raw rows; gives the body as it is, and None, where that cannot be exact.

    It can where one node reads the input, and either the normalisation is one whole mean and one std, or that node is a convolution over
    all three channels.
    """
    readers = [node for node in body.graph.node if NORMALISED in node.input]
    means, stds = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    if len(readers) != 1:
        return body, None
    zero_point, scale = round(float(means.mean())), 1.0 / float(stds.mean())
    offsets = zero_point - means
    if not 0 <= zero_point <= 255:
        return body, None
    if not offsets.any() and len(set(spec.std)) == 1:
        return body, Start(scale, zero_point)
    model = onnx.ModelProto()
    model.CopyFrom(body)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    conv = next(node for node in model.graph.node if NORMALISED in node.input)
    if conv.op_type != "Conv" or any(name and name not in constants for name in conv.input[1:]):
        return body, None
    weights = numpy_helper.to_array(constants[conv.input[1]]).astype(np.float64)
    if weights.shape[1] != len(means) or _is_read_twice(model, conv.input[1]):
        return body, None
    scaled = weights / stds.reshape(1, -1, 1, 1)  # what one pixel step counts for
    shift = (scaled * offsets.reshape(1, -1, 1, 1)).sum(axis=1, keepdims=True)
    constant = None
    if _pads(conv):
        step = max(1, round(float(np.abs(offsets).max())))
        constant = zero_point + step if zero_point + step <= 255 else zero_point - step
        scaled = np.concatenate([scaled, shift / (constant - zero_point)], axis=1)
    else:
        _add_to_bias(model, conv, shift.sum(axis=(1, 2, 3)))
    constants[conv.input[1]].CopyFrom(numpy_helper.from_array((scaled / scale).astype(np.float32), conv.input[1]))
    if constant is not None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
        del model.graph.value_info[:]  # the exporter's note of the input's shape
    return model, Start(scale, zero_point, constant)


def _pads(conv: onnx.NodeProto) -> bool:
    attributes = {attribute.name: attribute for attribute in conv.attribute}
    automatic = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
    return automatic not in (b"NOTSET", b"VALID") or any(attributes["pads"].ints if "pads" in attributes else ())


def _is_read_twice(model: onnx.ModelProto, name: str) -> bool:
    return sum(list(node.input).count(name) for node in model.graph.node) > 1


def _add_to_bias(model: onnx.ModelProto, conv: onnx.NodeProto, shift: np.ndarray) -> None:
    if len(conv.input) > 2 and conv.input[2]:
        old = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[2])
        shift = shift + numpy_helper.to_array(old)
        del conv.input[2:]
    name = f"{conv.name}_bias_at_raw_rows"
    model.graph.initializer.append(numpy_helper.from_array(shift.astype(np.float32), name))
    conv.input.append(name)
