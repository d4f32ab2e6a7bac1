"""The service with a model that reads pairs of texts, in this process: what it answers, refuses and describes."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmx.package import Package
from fmx.pairs import joined
from fmx.predictor import PackagePredictor
from serve.scaling.capacity import golden_bodies
from tests.serve.test_openapi import assert_service_is_as_described
from tests.serve.test_service import Service, error_of, running
from tests.serve.test_text_service import ask, binary, infer, tensor
from tests.texts import make_pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

PAIRS = [[question, answer] for _, question, answer, _ in make_pairs(12, seed=5)]
ODD = [["a\0b late", "مرحبا بالعالم"], ["👨\u200d👩\u200d👧 thanks", "cafe\u0301"], ["[SEP] [PAD]", "[CLS] late [SEP]"], ["x" * 40_000, "y" * 40_000]]
JSON = "application/json"


@pytest.fixture(scope="module")
def service(pair_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(pair_package, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture(scope="module")
def predictor(pair_package: Package) -> PackagePredictor:
    return PackagePredictor.open(pair_package.folder)


def encoded(pairs: list[list[str]]) -> list[bytes]:
    return [joined([text.encode() for text in pair]) for pair in pairs]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Scores may differ in the last places: rows of a batch are padded to its longest."""
    assert [[one["label"] for one in item["labels"]] for item in found] == [[one["label"] for one in item["labels"]] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], abs=1e-5)


@pytest.mark.parametrize("pair", [*PAIRS[:3], *ODD], ids=range(3 + len(ODD)))
def test_pair_gets_the_predictors_answer(service: Service, predictor: PackagePredictor, pair: list[str]) -> None:
    answer = ask(service, {"pair": pair})
    assert answer.status_code == 200, answer.text
    assert_same(answer.json()["predictions"], predictor.predict(encoded([pair])))


def test_many_pairs_are_answered_in_order(service: Service, predictor: PackagePredictor) -> None:
    answer = ask(service, {"pairs": PAIRS, "top_k": 1}).json()["predictions"]
    assert_same(answer, predictor.predict(encoded(PAIRS), 1))
    assert len({round(item["score"], 3) for item in answer}) > 3


REFUSED: list[tuple[bytes, str | None, int, str]] = [
    (b"late\tcard", "text/plain", 415, "unsupported_type"),
    (b"", JSON, 400, "bad_input"),
    (b'{"pair": ["late"]}', JSON, 400, "bad_input"),
    (b'{"pair": ["late", "card", "thanks"]}', JSON, 400, "bad_input"),
    (b'{"pair": "late"}', JSON, 400, "bad_input"),
    (b'{"pair": ["late", 3]}', JSON, 400, "bad_input"),
    (b'{"pair": ["late", null]}', JSON, 400, "bad_input"),
    (b'{"pair": {"a": "late", "b": "card"}}', JSON, 400, "bad_input"),
    (b'{"pair": ["late", ""]}', JSON, 400, "bad_input"),
    (b'{"pair": [" ", "card"]}', JSON, 400, "bad_input"),
    (b'{"pair": ["\\u0000", "card"]}', JSON, 400, "bad_input"),
    (b'{"pair": ["\\ud800", "card"]}', JSON, 400, "bad_input"),
    (b'{"pair": ["late\xff", "card"]}', JSON, 400, "bad_input"),
    (b'{"pairs": ["late", "card"]}', JSON, 400, "bad_input"),
    (b'{"pairs": []}', JSON, 400, "bad_input"),
    (b'{"pairs": [["late", "card"], ["late"]]}', JSON, 400, "bad_input"),
    (b'{"pair": ["a", "b"], "pairs": [["a", "b"]]}', JSON, 400, "bad_input"),
    (b'{"text": "late"}', JSON, 400, "bad_input"),
    (b'{"pairs": ' + b"[" * 3000, JSON, 400, "bad_input"),
    (json.dumps({"pairs": [["late", "card"]] * 33}).encode(), JSON, 413, "too_large"),
    (json.dumps({"pair": ["a" * 60_000] * 2}).encode(), JSON, 413, "too_large"),
    (json.dumps({"pairs": [["a" * 30_000] * 2] * 2}).encode(), JSON, 413, "too_large"),
    (b'{"pair": ["' + b"a" * 10_000_000 + b'", "b"]}', JSON, 413, "too_large"),
    (b"\x89PNG\r\n", "image/png", 415, "unsupported_type"),
]


@pytest.mark.parametrize(("content", "kind", "status", "code"), REFUSED, ids=range(len(REFUSED)))
def test_bad_body_gets_a_clear_answer_about_pairs(service: Service, content: bytes, kind: str | None, status: int, code: str) -> None:
    hint = error_of(service.predict(content, kind), status, code)["hint"]
    assert hint
    assert not re.search("image|picture|pixel|file", hint)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.lists(st.text(max_size=60), min_size=1, max_size=3), max_size=8), body=st.binary(max_size=40))
def test_no_pair_makes_a_5xx(service: Service, pairs: list[list[str]], body: bytes) -> None:
    for answer in (ask(service, {"pairs": pairs}), ask(service, body)):
        assert answer.status_code in (200, 400, 413), answer.text


def test_protocol_gives_the_predictors_answer(service: Service, predictor: PackagePredictor) -> None:
    name, pairs = predictor.package.name, PAIRS[:4]
    expected = np.concatenate([predictor.run(predictor.task.row(pair)[None]) for pair in encoded(pairs)])
    flat = [text for pair in pairs for text in pair]
    tail = binary([text.encode() for text in flat])
    for content, rest in (
        (tensor([4, 2], flat, name="pair"), b""),
        (tensor([4, 2], pairs, name="pair"), b""),
        (tensor([4, 2], name="pair", parameters={"binary_data_size": len(tail)}), tail),
    ):
        answer = infer(service, name, content, rest)
        assert answer.status_code == 200, answer.text
        outputs = {output["name"]: output for output in answer.json()["outputs"]}
        assert np.allclose(np.reshape(outputs["probabilities"]["data"], expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "tail", "status"),
    [
        (tensor([2], ["late", "card"], name="pair"), b"", 422),
        (tensor([1, 3], ["late", "card", "a"], name="pair"), b"", 422),
        (tensor([1, 2], ["late"], name="pair"), b"", 422),
        (tensor([1, 2], [["late"]], name="pair"), b"", 422),
        (tensor([2, 2], [["a", "b", "c"], ["d"]], name="pair"), b"", 422),
        (tensor([2, 2], [["a", "b"], "c", "d"], name="pair"), b"", 422),
        (tensor([1, 2], ["late", 3], name="pair"), b"", 422),
        (tensor([1, 2], ["late", "card"], name="text"), b"", 422),
        (tensor([1, 2], ["late", ""], name="pair"), b"", 400),
        (tensor([1, 2], name="pair", parameters={"binary_data_size": 11}), struct.pack("<I", 1) + b"a" + struct.pack("<I", 2) + b"\xff\xfe", 400),
        (tensor([33, 2], ["late"] * 66, name="pair"), b"", 413),
        (tensor([1, 2], ["a" * 60_000] * 2, name="pair"), b"", 413),
    ],
)
def test_what_is_no_request_is_a_4xx(service: Service, predictor: PackagePredictor, content: Any, tail: bytes, status: int) -> None:
    answer = infer(service, predictor.package.name, content, tail)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_what_is_told_of_the_model_is_of_pairs(service: Service, predictor: PackagePredictor) -> None:
    model = service.request("GET", f"/v2/models/{predictor.package.name}", key=service.key).json()
    assert model["inputs"] == [{"name": "pair", "datatype": "BYTES", "shape": [-1, 2]}]
    client = service.request("GET", "/schema.json", key=service.key).json()["routes"][0]
    assert set(client["input"]["properties"]) == {"pair", "pairs", "top_k"}
    content = service.request("GET", "/openapi.json").json()["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json"}
    page = service.request("GET", "/").text
    assert [label for label in re.findall(r'<label for="(\w+)">', page) if label != "key"] == ["text", "second", "top"]
    wanted = set(re.findall(r'byId\("([\w-]+)"\)', page))
    assert wanted - {"key"} <= set(re.findall(r'id="([\w-]+)"', page))


def test_description_and_service_agree(pair_package: Package, tmp_path: Path) -> None:
    assert_service_is_as_described(pair_package, tmp_path)


def test_golden_rows_become_pairs_again(pair_package: Package, predictor: PackagePredictor) -> None:
    bodies = golden_bodies(pair_package)
    with np.load(pair_package.folder / "golden.npz", allow_pickle=False) as golden:
        rows = golden["rows"]
    assert len(bodies) == len(rows)
    for (body, kind), row in zip(bodies, rows, strict=True):
        assert kind == JSON
        assert np.array_equal(predictor.task.row(encoded([json.loads(body)["pair"]])[0]), row)
