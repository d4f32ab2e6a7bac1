"""The Open Inference Protocol in this process; tests/e2e/test_triton_client.py talks to it with somebody else's client."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmx.package import Package
from fmx.predictor import PackagePredictor
from tests.serve.test_service import Service, digits, service  # noqa: F401 fixtures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries


@pytest.fixture(scope="module")
def predictor(small_package: Package) -> PackagePredictor:
    return PackagePredictor.open(small_package.folder)


def infer(service: Service, name: str, content: Any, tail: bytes = b"", **headers: str) -> httpx.Response:  # noqa: F811
    head = content if isinstance(content, bytes) else json.dumps(content).encode()
    if tail:
        headers = {"inference-header-content-length": str(len(head)), **headers}
    return service.request("POST", f"/v2/models/{name}/infer", key=service.key, headers=headers, content=head + tail)


def tensor(shape: list[int], data: Any = None, kind: str = "UINT8", **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "images", "shape": shape, "datatype": kind, **({} if data is None else {"data": data}), **more}]}


def test_rows_and_encoded_images_get_the_predictors_answer(service: Service, digits: list[bytes], predictor: PackagePredictor) -> None:  # noqa: F811
    name = predictor.package.name
    rows = np.stack([predictor.task.row(image) for image in digits])
    expected = predictor.run(rows)
    encoded = [base64.b64encode(image).decode() for image in digits]
    binary = b"".join(struct.pack("<I", len(image)) + image for image in digits)
    for content, tail in (
        (tensor(list(rows.shape), rows.reshape(-1).tolist()), b""),
        (tensor(list(rows.shape), rows.tolist()), b""),
        (tensor(list(rows.shape), parameters={"binary_data_size": rows.nbytes}), rows.tobytes()),
        (tensor([3], encoded, "BYTES"), b""),
        (tensor([3], kind="BYTES", parameters={"binary_data_size": len(binary)}), binary),
    ):
        answer = infer(service, name, content, tail)
        assert answer.status_code == 200, answer.text
        outputs = {output["name"]: output for output in answer.json()["outputs"]}
        assert outputs["probabilities"]["shape"] == [3, 10]
        assert np.allclose(np.reshape(outputs["probabilities"]["data"], (3, 10)), expected, atol=1e-6)
        assert outputs["label"]["data"] == [predictor.contract.labels[int(row.argmax())] for row in expected]


def test_binary_outputs_follow_the_json_in_order(service: Service, digits: list[bytes], predictor: PackagePredictor) -> None:  # noqa: F811
    name, rows = predictor.package.name, np.stack([predictor.task.row(image) for image in digits])
    content = tensor(list(rows.shape), rows.tolist()) | {"id": "mine", "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}
    answer = infer(service, name, content)
    length = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.content[:length])
    assert head["id"] == "mine"
    assert [output["name"] for output in head["outputs"]] == ["probabilities"]
    assert np.array_equal(np.frombuffer(answer.content[length:], np.float32).reshape(3, 10), predictor.run(rows))


def test_metadata_and_readiness(service: Service, predictor: PackagePredictor) -> None:  # noqa: F811
    name = predictor.package.name
    assert service.request("GET", "/v2", key=service.key).json()["extensions"] == ["binary_tensor_data"]
    model = service.request("GET", f"/v2/models/{name}", key=service.key).json()
    assert model["inputs"][0]["shape"] == [-1, *predictor.task.row_shape]
    assert service.request("GET", f"/v2/models/{name}/versions/{model['versions'][0]}/ready", key=service.key).status_code == 200
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert service.request("GET", path).status_code == 200
    for path in ("/v2", f"/v2/models/{name}"):
        assert service.request("GET", path).status_code == 401
    for path in ("/v2/models/other", f"/v2/models/{name}/versions/0/ready", f"/v2/models/{name}/x", "/v2/models//infer", "/v2/models/a/b/c/infer"):
        assert service.request("GET", path, key=service.key).status_code in (404, 405)


@pytest.mark.parametrize(
    ("content", "tail", "status"),
    [
        (b"", b"", 400),
        (b"[1]", b"", 400),
        ({}, b"", 422),
        ({"inputs": []}, b"", 422),
        ({"inputs": [1]}, b"", 422),
        (tensor([1]) | {"inputs": [{"name": "other"}]}, b"", 422),
        (tensor([0, 16, 16, 3], []), b"", 400),
        (tensor([1, 2, 2, 3], [0] * 12), b"", 422),
        (tensor([1, -1, 16, 3], []), b"", 422),
        (tensor([10**9], [], "BYTES"), b"", 413),
        (tensor([4], ["", "", "", ""], "BYTES"), b"", 413),
        (tensor([1], ["?"], "BYTES"), b"", 400),
        (tensor([1], [7], "BYTES"), b"", 422),
        (tensor([1], [""], "BYTES"), b"", 400),
        (tensor([2], ["aGFsbG8="], "BYTES"), b"", 422),
        (tensor([1], kind="BYTES", parameters={"binary_data_size": 4}), b"\xff\xff\xff\xff", 422),
        (tensor([1], kind="BYTES", parameters={"binary_data_size": 9}), b"\x00", 400),
        (tensor([1], ["aGFsbG8="], "BYTES"), b"left over", 400),
        (tensor([1], ["aGFsbG8="], "BYTES", parameters=[1]), b"", 400),
        (tensor([1], ["aGFsbG8="], "BYTES") | {"outputs": [{"name": "other"}]}, b"", 422),
    ],
)
def test_what_is_no_request_is_a_4xx_with_the_protocols_error(
    service: Service,  # noqa: F811
    predictor: PackagePredictor,
    content: Any,
    tail: bytes,
    status: int,
) -> None:
    answer = infer(service, predictor.package.name, content, tail)
    assert answer.status_code == status, answer.text
    assert isinstance(answer.json()["error"], str)


def test_part_of_the_wrong_kind_is_not_passed_over(service: Service, digits: list[bytes], predictor: PackagePredictor) -> None:  # noqa: F811
    good = tensor([1], [base64.b64encode(digits[0]).decode()], "BYTES")
    for part, status in (({}, 200), ({"id": None, "parameters": None}, 200), ({"id": 7}, 400), ({"parameters": ""}, 400), ({"outputs": False}, 422)):
        assert infer(service, predictor.package.name, good | part).status_code == status, part


def test_header_length_that_is_none_is_a_400(service: Service, predictor: PackagePredictor) -> None:  # noqa: F811
    for length in ("-1", "9999", "x", "1e3", ""):
        answer = infer(service, predictor.package.name, tensor([1]), b"", **{"inference-header-content-length": length})
        assert answer.status_code in (400, 422), answer.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False) | st.sampled_from(["images", "UINT8", "BYTES", "aGFsbG8=", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "binary_data_size"]), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.fixed_dictionaries({"inputs": json_values | st.lists(json_values, min_size=1, max_size=1)}) | json_values, tail=st.binary(max_size=20)
)
def test_no_content_makes_a_5xx(service: Service, predictor: PackagePredictor, content: Any, tail: bytes) -> None:  # noqa: F811
    assert infer(service, predictor.package.name, content, tail).status_code < 500
