"""Open Inference Protocol V2 (KServe, Triton): its JSON and binary forms, turned into what the engine takes and back.

One input is taken: of images rows as they are, UINT8 [n, height, width, 3], or encoded, BYTES [n]; of texts BYTES [n], of pairs [n, 2]. Outputs are
`probabilities` FP32 [n, labels] and `label`, the first label of each row, BYTES [n]; of token classification `entities`, BYTES [n], a list in JSON
each; of scores `score` FP32 [n]. A package with an embedding gives `embedding` FP32 [n, width] too, where a request names it. Specification:
github.com/kserve/open-inference-protocol; the binary form is Triton's extension binary_tensor_data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from fmx.errors import InputError
from fmx.pairs import joined
from fmx.predictor import PackagePredictor
from fmx.tasks import Task
from serve.errors import ShapeError
from serve.inputs import check_characters, check_count, decode_images, encode_texts, read_object
from serve.settings import ServeSettings

HEADER_LENGTH = "inference-header-content-length"
HINT = "GET /v2/models/NAME says what the model takes."
OUTPUTS = {"labels": ("probabilities", "label"), "entities": ("entities",), "score": ("score",)}
"""By what a task answers with."""
EMBEDDING = "embedding"
MOST_AXES = 8
MOST_BYTES_A_CHARACTER = 4
"""Of UTF-8."""


@dataclass(frozen=True)
class InferRequest:
    """What a request asks."""

    id: str
    inputs: list[bytes] | list[np.ndarray]
    """Encoded images, rows uint8 [height, width, 3], texts or pairs."""
    outputs: dict[str, bool]
    """By name, whether in binary."""


def server_metadata(version: str) -> dict[str, Any]:
    """Answer GET /v2."""
    return {"name": "fmx", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(predictor: PackagePredictor, execution: str) -> dict[str, Any]:
    """Answer GET /v2/models/NAME; `execution` says how rows run on this host."""
    manifest = predictor.package.manifest
    own = {"digest": predictor.package.digest, "variant": predictor.variant.name, "execution": execution}
    return {
        "name": predictor.package.name,
        "versions": [manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_input_metadata(predictor.task)],
        "outputs": [_output_metadata(name, predictor) for name in _outputs_there(predictor)],
        "parameters": {**own, **({"encoded_images": "BYTES [-1] is taken too"} if predictor.task.noun == "image" else {})},
    }


def _output_metadata(name: str, predictor: PackagePredictor) -> dict[str, Any]:
    widths = {"probabilities": len(predictor.contract.labels), EMBEDDING: predictor.contract.embedding.width if predictor.contract.embedding else 0}
    if name in widths:
        return {"name": name, "datatype": "FP32", "shape": [-1, widths[name]]}
    return {"name": name, "datatype": "FP32" if name == "score" else "BYTES", "shape": [-1]}


def _outputs_there(predictor: PackagePredictor) -> tuple[str, ...]:
    return (*outputs_of(type(predictor.task)), *((EMBEDDING,) if predictor.contract.embedding is not None else ()))


def _input_metadata(task: Task) -> dict[str, Any]:
    if task.noun == "image":
        return {"name": task.tensor, "datatype": "UINT8", "shape": [-1, *task.row_shape]}
    return {"name": task.tensor, "datatype": "BYTES", "shape": [-1, *_own_shape(task)]}


def outputs_of(task: type[Task]) -> tuple[str, ...]:
    """Name the outputs of a task's models, which are given where none is asked for."""
    return OUTPUTS[task.answers_with]


def _own_shape(task: Task) -> tuple[int, ...]:
    """Give the shape of one encoded input among BYTES: a pair has two elements."""
    return (2,) if task.noun == "pair" else ()


def read_infer(body: bytes, headers: Mapping[str, str], predictor: PackagePredictor, settings: ServeSettings) -> InferRequest:
    """Read an inference request.

    Raises:
        InputError: no JSON, fields that are missing or of the wrong kind.
        ShapeError: a tensor of another name, type or shape than the model takes.
        TooLargeError: more rows than a request may have.
    """
    content, binary = _parts(body, headers)
    tensor = _only_input(content, predictor.task.tensor)
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > MOST_AXES
        or not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape)
    ):
        raise ShapeError("The input's shape is no list of sizes.", hint=HINT)
    if not shape or not shape[0]:
        raise InputError("There is no row in the request.", hint=HINT)
    check_count(shape[0], settings.max_inputs)
    raw = _raw_data(tensor, binary)
    inputs: list[bytes] | list[np.ndarray]
    of_bytes = [-1, *_own_shape(predictor.task)]
    if tensor.get("datatype") == "BYTES" and shape[1:] == of_bytes[1:]:
        inputs = _encoded(raw, tensor, shape[0], predictor.task, settings)
    elif predictor.task.noun == "image" and tensor.get("datatype") == "UINT8" and tuple(shape[1:]) == predictor.task.row_shape:
        inputs = list(_rows(raw, tensor, shape))
    else:
        wanted = f"UINT8 {[-1, *predictor.task.row_shape]} or BYTES [-1]" if predictor.task.noun == "image" else f"BYTES {of_bytes}"
        raise ShapeError(f"{str(tensor.get('datatype'))[:20]} {str(shape)[:100]} is not taken: {wanted}.", hint=HINT)
    given = content.get("id")
    if not isinstance(given, str | None):
        raise InputError("id is no text.", hint=HINT)
    return InferRequest(given or "", inputs, _wanted_outputs(content, predictor))


def write_infer(
    request: InferRequest, predictor: PackagePredictor, predictions: list[dict[str, Any]], probabilities: np.ndarray, embeddings: np.ndarray
) -> tuple[bytes, dict[str, str]]:
    """Write an answer: the body, and its headers.

    Args:
        request: what was asked.
        predictor: who answered.
        predictions: of each input.
        probabilities: float32 [n, labels], where they are an output.
        embeddings: float32 [n, width], where they are one.
    """
    outputs, binary = [], []
    numbers = {"probabilities": probabilities, EMBEDDING: embeddings}
    if "score" in request.outputs:
        numbers["score"] = np.array([told["score"] for told in predictions], np.float32)
    for name, in_binary in request.outputs.items():
        tensor, raw = _output(name, in_binary, predictions, numbers)
        outputs.append(tensor)
        binary.append(raw)
    content: dict[str, Any] = {"model_name": predictor.package.name, "model_version": predictor.package.manifest.version, "outputs": outputs}
    if request.id:
        content["id"] = request.id
    head, tail = orjson.dumps(content), b"".join(binary)
    if not tail:
        return head, {"content-type": "application/json"}
    return head + tail, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def _parts(body: bytes, headers: Mapping[str, str]) -> tuple[dict[str, Any], bytes]:
    """Split the body into its JSON head and the binary tensors behind it."""
    length = headers.get(HEADER_LENGTH)
    if length is not None and not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= len(body)):
        raise InputError(f"{HEADER_LENGTH} is not the length of a part of the body.", hint=HINT)
    head = body if length is None else body[: int(length)]
    return read_object(head, "request", HINT), body[len(head) :]


def _only_input(content: dict[str, Any], name: str) -> dict[str, Any]:
    tensors = content.get("inputs")
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise ShapeError("Exactly one input is taken.", hint=HINT)
    tensor: dict[str, Any] = tensors[0]
    if tensor.get("name") != name:
        raise ShapeError(f"There is no input {str(tensor.get('name'))[:50]!r}; it is called {name}.", hint=HINT)
    return tensor


def _parameters(of: dict[str, Any]) -> dict[str, Any]:
    found = of.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError("parameters is no object.", hint=HINT)
    return found


def _raw_data(tensor: dict[str, Any], binary: bytes) -> bytes | None:
    """Give the input's binary data, or None where its data are JSON."""
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if binary:
            raise InputError("There are bytes behind the JSON that no input names (binary_data_size).", hint=HINT)
        return None
    if size != len(binary) or isinstance(size, bool):
        raise InputError(f"binary_data_size says {str(size)[:20]}, and {len(binary)} bytes follow the JSON.", hint=HINT)
    return binary


def _encoded(raw: bytes | None, tensor: dict[str, Any], count: int, task: Task, settings: ServeSettings) -> list[bytes]:
    """Read BYTES: in binary each element behind its length (4 bytes, little-endian), in JSON images as base64 and texts as they are.

    The two texts of a pair are elements behind each other; in JSON they may also be a list of their own.
    """
    each = math.prod(_own_shape(task))
    if raw is None:
        data = tensor.get("data")
        if task.noun == "pair" and isinstance(data, list) and all(isinstance(item, list) and len(item) == 2 for item in data):
            data = [text for pair in data for text in pair]
        if not isinstance(data, list) or len(data) != count * each or not all(isinstance(item, str) for item in data):
            raise ShapeError("The data are not as many strings as the shape says.", hint="BYTES in JSON are strings; images in them base64.")
        return decode_images(data, HINT) if task.noun == "image" else encode_texts([data[i : i + each] for i in range(0, len(data), each)], settings)
    found = _elements(raw, count * each)
    if task.noun != "image":
        check_characters(sum(len(data) for data in found) // MOST_BYTES_A_CHARACTER, settings)
    return [joined(found[i : i + each]) for i in range(0, len(found), each)]


def _elements(raw: bytes, count: int) -> list[bytes]:
    """Take elements apart, each behind its length. Raises: `ShapeError`: they are not so many."""
    found: list[bytes] = []
    place = 0
    while place < len(raw) and len(found) <= count:
        if place + 4 > len(raw):
            break
        (length,) = struct.unpack_from("<I", raw, place)
        found.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    if len(found) != count or place != len(raw):
        raise ShapeError("The binary data are not as many elements as the shape says.", hint=HINT)
    return found


def _rows(raw: bytes | None, tensor: dict[str, Any], shape: list[int]) -> np.ndarray:
    size = int(np.prod(shape))
    if raw is not None:
        if len(raw) != size:
            raise ShapeError(f"{len(raw)} bytes of data for {size} values.", hint=HINT)
        return np.frombuffer(raw, np.uint8).reshape(shape)
    try:
        values = np.asarray(tensor.get("data")).reshape(-1)
    except (ValueError, TypeError) as error:
        raise ShapeError("The data are no array of numbers.", hint=HINT) from error
    if values.dtype.kind not in "iuf":
        raise ShapeError("The data are no array of numbers.", hint=HINT)
    if len(values) != size or not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise ShapeError(f"The data are not {size} whole numbers from 0 to 255.", hint=HINT)
    return values.astype(np.uint8).reshape(shape)


def _wanted_outputs(content: dict[str, Any], predictor: PackagePredictor) -> dict[str, bool]:
    names = _outputs_there(predictor)
    all_binary = _parameters(content).get("binary_data_output") is True
    asked = content.get("outputs")
    if asked is None or asked == []:
        return dict.fromkeys(outputs_of(type(predictor.task)), all_binary)
    if not isinstance(asked, list) or not all(isinstance(item, dict) and item.get("name") in names for item in asked):
        raise ShapeError(f"Outputs are {' and '.join(names)}.", hint=HINT)
    return {item["name"]: _parameters(item).get("binary_data", all_binary) is True for item in asked}


def _output(name: str, in_binary: bool, predictions: list[dict[str, Any]], arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], bytes]:
    if name in arrays:
        numbers = arrays[name]
        tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(numbers.shape)}
        values: list[Any] = [] if in_binary else numbers.reshape(-1).tolist()
        raw = np.ascontiguousarray(numbers, np.float32).tobytes() if in_binary else b""
    else:
        labels = [told["labels"][0]["label"] if name == "label" else orjson.dumps(told[name]).decode() for told in predictions]
        tensor, values = {"name": name, "datatype": "BYTES", "shape": [len(labels)]}, [] if in_binary else labels
        encoded = [label.encode() for label in labels] if in_binary else []
        raw = b"".join(struct.pack("<I", len(label)) + label for label in encoded)
    if in_binary:
        return {**tensor, "parameters": {"binary_data_size": len(raw)}}, raw
    return {**tensor, "data": values}, b""
