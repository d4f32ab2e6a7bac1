"""The service with a model that finds entities, in this process: what it answers, refuses and describes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmx.package import Package
from fmx.predictor import PackagePredictor
from serve.scaling.capacity import golden_bodies
from serve.shadow import _agree
from tests.e2e.conftest import eventually
from tests.serve.test_openapi import assert_service_is_as_described
from tests.serve.test_service import Service, error_of, running
from tests.serve.test_text_service import ask, engine_of, infer, tensor
from tests.texts import make_entities

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

TEXTS = [str(row["text"]) for row in make_entities(12, seed=5)]
ODD = [
    "grace in new york 👩\u200d👩\u200d👧 paris",
    "cafe\u0301 ada",
    "مرحبا ada",
    "a\0b grace",
    "王芳在北京",
    "[CLS] ada [SEP] [PAD] paris",
    "\ufeffada in rome",
    "ada \u202e emor ni",
    "the courier was late " * 200 + "in paris",
]


@pytest.fixture(scope="module")
def service(entity_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(entity_package, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture(scope="module")
def predictor(entity_package: Package) -> PackagePredictor:
    return PackagePredictor.open(entity_package.folder)


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Scores may differ in the last places: rows of a batch are padded to its longest."""
    for mine, theirs in zip(found, expected, strict=True):
        places = [[(one["label"], one["start"], one["end"], one["text"]) for one in item["entities"]] for item in (mine, theirs)]
        assert places[0] == places[1]
        assert [one["score"] for one in mine["entities"]] == pytest.approx([one["score"] for one in theirs["entities"]], abs=1e-5)


@pytest.mark.parametrize("text", [*TEXTS[:3], *ODD], ids=range(3 + len(ODD)))
def test_text_gets_the_predictors_answer(service: Service, predictor: PackagePredictor, text: str) -> None:
    answer = ask(service, {"text": text})
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    assert_same(found, predictor.predict([text.encode()]))
    assert all(text[one["start"] : one["end"]] == one["text"] for one in found[0]["entities"])


def test_plain_text_is_answered_too(service: Service, predictor: PackagePredictor) -> None:
    answer = service.predict(TEXTS[0].encode(), "text/plain; charset=utf-8")
    assert_same(answer.json()["predictions"], predictor.predict([TEXTS[0].encode()]))


def test_texts_long_and_short_are_answered_in_order(service: Service, predictor: PackagePredictor) -> None:
    texts = [ODD[-1], TEXTS[0], ODD[-1] + " and rome", *TEXTS[1:6]]
    answer = ask(service, {"texts": texts}).json()["predictions"]
    assert_same(answer, predictor.predict([text.encode() for text in texts]))
    assert answer[0]["entities"][-1]["text"] == "paris"


REFUSED: list[tuple[bytes, str, int, str]] = [
    (b'{"text": "ada", "top_k": 3}', "application/json", 400, "bad_input"),
    (b'{"text": " "}', "application/json", 400, "bad_input"),
    (b'{"text": "\\u0000"}', "application/json", 400, "bad_input"),
    (b'{"text": "\\ud800"}', "application/json", 400, "bad_input"),
    (b'{"text": 3}', "application/json", 400, "bad_input"),
    (b'{"pair": ["a", "b"]}', "application/json", 400, "bad_input"),
    (b'{"texts": []}', "application/json", 400, "bad_input"),
    (b"ada\xff", "text/plain", 400, "bad_input"),
    (b"a" * 10_000_000, "text/plain", 413, "too_large"),
    (b"a b " * 10_000, "text/plain", 413, "too_large"),
    (json.dumps({"texts": ["ada"] * 1000}).encode(), "application/json", 413, "too_large"),
]


@pytest.mark.parametrize(("content", "kind", "status", "code"), REFUSED, ids=range(len(REFUSED)))
def test_bad_body_gets_a_clear_answer(service: Service, content: bytes, kind: str, status: int, code: str) -> None:
    assert error_of(service.predict(content, kind), status, code)["hint"]


def test_top_k_has_no_place_in_the_query(service: Service) -> None:
    answer = service.request("POST", "/v1/predict?top_k=3", key=service.key, content=b'{"text": "ada"}', headers={"Content-Type": "application/json"})
    assert "top_k has no place here" in error_of(answer, 400, "bad_input")["message"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=200), max_size=8), body=st.binary(max_size=40))
def test_no_text_makes_a_5xx(service: Service, texts: list[str], body: bytes) -> None:
    for answer in (ask(service, {"texts": texts}), ask(service, body)):
        assert answer.status_code in (200, 400, 413), answer.text


def test_protocol_gives_the_entities_in_json(service: Service, predictor: PackagePredictor) -> None:
    name = predictor.package.name
    model = service.request("GET", f"/v2/models/{name}", key=service.key).json()
    assert model["outputs"] == [
        {"name": "entities", "datatype": "BYTES", "shape": [-1]},
        {"name": "embedding", "datatype": "FP32", "shape": [-1, 32]},
    ]
    texts = [TEXTS[0], ODD[-1]]
    answer = infer(service, name, tensor([2], texts), b"")
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["shape"]) == ("entities", [2])
    assert_same([{"entities": json.loads(one)} for one in output["data"]], predictor.predict([text.encode() for text in texts]))
    refused = infer(service, name, {**tensor([1], ["ada"]), "outputs": [{"name": "probabilities"}]}, b"")
    assert refused.status_code == 422


def test_texts_are_embedded_whatever_their_length(service: Service, predictor: PackagePredictor) -> None:
    texts = [TEXTS[0], ODD[-1]]
    body = json.dumps({"texts": texts}).encode()
    answer = service.request("POST", "/v1/embed", key=service.key, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    vectors = np.array([item["embedding"] for item in answer.json()["predictions"]])
    assert vectors.shape == (2, 32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert np.abs(vectors[0] - predictor.embed([TEXTS[0].encode()])[0]).max() < 1e-5


def test_metrics_count_entities_by_kind(service: Service) -> None:
    def count() -> float:
        told = service.request("GET", "/metrics").text
        return sum(float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith("fmx_predictions_total") and 'label="LOC"' in line)

    before = count()
    found = ask(service, {"texts": TEXTS}).json()["predictions"]
    assert count() - before == sum(one["label"] == "LOC" for item in found for one in item["entities"]) > 0


def test_what_is_told_of_the_model_is_of_entities(service: Service) -> None:
    client = service.request("GET", "/schema.json", key=service.key).json()["routes"][0]
    assert set(client["input"]["properties"]) == {"text", "texts"}
    page = service.request("GET", "/").text
    assert [label for label in re.findall(r'<label for="(\w+)">', page) if label != "key"] == ["text"]
    wanted = set(re.findall(r'byId\("([\w-]+)"\)', page))
    assert wanted - {"key"} <= set(re.findall(r'id="([\w-]+)"', page))


def test_description_and_service_agree(entity_package: Package, tmp_path: Path) -> None:
    assert_service_is_as_described(entity_package, tmp_path)


def test_golden_rows_become_texts_again(entity_package: Package) -> None:
    bodies = golden_bodies(entity_package)
    assert len(bodies) == 8
    assert all(kind == "text/plain" and body.decode().strip() for body, kind in bodies)


def test_shadow_compares_what_is_answered(entity_package: Package, predictor: PackagePredictor) -> None:
    """Special tokens and pieces of words are answered anyhow, and differ where nothing does."""
    row = predictor.task.decode(b"ada in new york")
    expected = predictor.run(row.values[None])[0]
    other = expected.copy()
    other[0] = other[0][::-1]  # that which stands before the text
    assert _agree(other, expected, row)
    assert row.answered is not None
    other[row.answered[0]] = np.roll(other[row.answered[0]], 1)
    assert not _agree(other, expected, row)


def test_distance_of_embeddings_is_watched(entity_package: Package, service: Service) -> None:
    reference = json.loads((entity_package.folder / "reference.json").read_text())
    assert np.linalg.norm(reference["embedding_centre"]) == pytest.approx(1.0, abs=1e-3)
    assert sum(reference["embedding_distance"]["counts"]) == reference["rows"]
    drift = engine_of(service)._served.drift
    assert eventually(lambda: _asked(service) and (drift._halves[0]["embedding_distance"] + drift._halves[1]["embedding_distance"]).sum() > 0, 10)


def _asked(service: Service) -> bool:
    return ask(service, {"text": TEXTS[0]}).status_code == 200
