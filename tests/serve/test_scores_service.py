"""The service with a model that scores pairs of texts, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fmx.client import _is_prediction
from fmx.package import Package
from fmx.pairs import joined
from fmx.predictor import PackagePredictor
from tests.serve.test_openapi import assert_service_is_as_described
from tests.serve.test_service import Service, error_of, running
from tests.serve.test_text_service import ask, infer, tensor
from tests.texts import make_scored

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

PAIRS = [[question, answer] for _, question, answer, _ in make_scored(12, seed=5)]


@pytest.fixture(scope="module")
def service(scores_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(scores_package, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture(scope="module")
def scores(scores_package: Package) -> list[float]:
    predictions = PackagePredictor.open(scores_package.folder).predict([joined([text.encode() for text in pair]) for pair in PAIRS])
    return [told["score"] for told in predictions]


def test_pairs_get_the_predictors_scores_and_are_counted_by_grade(service: Service, scores: list[float]) -> None:
    answer = ask(service, {"pairs": PAIRS})
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    assert [list(one) for one in found] == [["score"]] * len(PAIRS)
    assert [one["score"] for one in found] == pytest.approx(scores, abs=1e-4)
    told = service.request("GET", "/metrics").text
    assert sum(float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith("fmx_predictions_total{")) >= len(PAIRS)


def test_top_k_is_refused(service: Service) -> None:
    answer = ask(service, {"pair": PAIRS[0], "top_k": 2})
    assert "top_k" in error_of(answer, 400, "bad_input")["message"]


@pytest.mark.parametrize("in_binary", [False, True])
def test_protocol_gives_a_number_a_pair(service: Service, scores_package: Package, scores: list[float], in_binary: bool) -> None:
    parameters = {"parameters": {"binary_data_output": True}} if in_binary else {}
    content = {**tensor([3, 2], [text for pair in PAIRS[:3] for text in pair], name="pair"), **parameters}
    answer = infer(service, scores_package.name, content, b"")
    assert answer.status_code == 200, answer.text
    if in_binary:
        length = int(answer.headers["inference-header-content-length"])
        (output,) = json.loads(answer.content[:length])["outputs"]
        found = np.frombuffer(answer.content[length:], np.float32).tolist()
    else:
        (output,) = answer.json()["outputs"]
        found = output["data"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP32", [3])
    assert found == pytest.approx(scores[:3], abs=1e-4)


def test_metadata_names_the_score(service: Service, scores_package: Package) -> None:
    told = service.request("GET", f"/v2/models/{scores_package.name}", key=service.key).json()
    assert {"name": "score", "datatype": "FP32", "shape": [-1]} in told["outputs"]


def test_description_and_service_agree(scores_package: Package, tmp_path: Path) -> None:
    assert_service_is_as_described(scores_package, tmp_path)


def test_client_takes_the_service_for_what_it_is() -> None:
    """`fmx predict --url` said that it was no fmx service."""
    told = {"model": {"name": "m", "variant": "fp32"}, "predictions": [{"score": -3.2}]}
    assert _is_prediction(told)
    assert not _is_prediction({**told, "predictions": [{"score": "high"}]})
    assert not _is_prediction({**told, "predictions": [{}]})
