"""`POST /v1/embed`, in this process: a vector for each text, where the package was exported with one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fmx.package import Package
from fmx.predictor import PackagePredictor
from tests.serve.test_openapi import assert_service_is_as_described
from tests.serve.test_service import Service, error_of, running
from tests.serve.test_text_service import infer, tensor
from tests.texts import make_texts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

TEXTS = [text for text, _ in make_texts(12, seed=5)]
JSON = "application/json"


@pytest.fixture(scope="module")
def service(embedding_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(embedding_package, tmp_path_factory.mktemp("keys")) as made:
        yield made


def ask(service: Service, content: Any, kind: str = JSON, query: str = "", key: str | None = None) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return service.request("POST", f"/v1/embed{query}", key=service.key if key is None else key, headers={"content-type": kind}, content=body)


def test_texts_are_embedded_in_their_order(service: Service, embedding_package: Package) -> None:
    expected = PackagePredictor.open(embedding_package.folder).embed([text.encode() for text in TEXTS])
    answer = ask(service, {"texts": TEXTS})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"request_id", "model", "predictions"}
    assert answer.json()["model"]["name"] == embedding_package.name
    vectors = np.array([item["embedding"] for item in answer.json()["predictions"]])
    assert np.abs(vectors - expected).max() < 1e-5
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    for one in (ask(service, {"text": TEXTS[0]}), ask(service, TEXTS[0].encode(), "text/plain")):
        assert np.abs(np.array(one.json()["predictions"][0]["embedding"]) - expected[0]).max() < 1e-5


def test_protocol_gives_embeddings_where_they_are_named(service: Service, embedding_package: Package) -> None:
    name, texts = embedding_package.name, TEXTS[:3]
    model = service.request("GET", f"/v2/models/{name}", key=service.key).json()
    assert model["outputs"][-1] == {"name": "embedding", "datatype": "FP32", "shape": [-1, 32]}
    plain = infer(service, name, tensor([3], texts), b"").json()["outputs"]
    assert [output["name"] for output in plain] == ["probabilities", "label"]
    asked = infer(service, name, {**tensor([3], texts), "outputs": [{"name": "embedding"}, {"name": "label"}]}, b"")
    assert asked.status_code == 200, asked.text
    embedding, label = asked.json()["outputs"]
    assert (embedding["shape"], label["name"]) == ([3, 32], "label")
    expected = PackagePredictor.open(embedding_package.folder).embed([text.encode() for text in texts])
    assert np.abs(np.reshape(embedding["data"], (3, 32)) - expected).max() < 1e-5


def test_predictions_are_as_ever_beside_it(service: Service, embedding_package: Package) -> None:
    answer = service.predict(json.dumps({"texts": TEXTS[:3]}).encode(), JSON).json()["predictions"]
    expected = PackagePredictor.open(embedding_package.folder).predict([text.encode() for text in TEXTS[:3]])
    assert [item["labels"][0]["label"] for item in answer] == [item["labels"][0]["label"] for item in expected]
    assert all(set(item) == {"labels"} for item in answer)


@pytest.mark.parametrize(
    ("content", "kind", "query", "status", "code"),
    [
        ({"text": "late", "top_k": 3}, JSON, "", 400, "bad_input"),
        ({"text": "late"}, JSON, "?top_k=3", 400, "bad_input"),
        ({"text": ""}, JSON, "", 400, "bad_input"),
        ({"texts": []}, JSON, "", 400, "bad_input"),
        ({"texts": ["late", " "]}, JSON, "", 400, "bad_input"),
        ({"texts": ["late"] * 33}, JSON, "", 413, "too_large"),
        ({"pair": ["late", "card"]}, JSON, "", 400, "bad_input"),
        (b"late", "text/html", "", 415, "unsupported_type"),
    ],
)
def test_what_cannot_be_embedded_gets_a_clear_answer(service: Service, content: Any, kind: str, query: str, status: int, code: str) -> None:
    assert "top_k" not in error_of(ask(service, content, kind, query), status, code)["hint"]


def test_embedding_is_no_prediction(service: Service) -> None:
    def counted() -> list[str]:
        return [
            line
            for line in service.request("GET", "/metrics").text.splitlines()
            if line.startswith(("fmx_predictions_total", "fmx_confidence_count"))
        ]

    before = counted()
    assert ask(service, {"texts": TEXTS}).status_code == 200
    assert counted() == before


def test_embedding_wants_a_key(service: Service) -> None:
    error_of(ask(service, {"text": "late"}, key="fmx_00000000_wrong"), 401, "unauthorised")


def test_package_without_one_says_so(text_package: Package, light_package: Package, tmp_path: Path) -> None:
    for number, package in enumerate((text_package, light_package)):
        with running(package, tmp_path / str(number)) as service:
            error = error_of(ask(service, {"text": "late"}), 404, "not_found")
            assert ("--embedding" in error["hint"]) == (package is text_package)


def test_description_and_service_agree(embedding_package: Package, tmp_path: Path) -> None:
    assert_service_is_as_described(embedding_package, tmp_path)
