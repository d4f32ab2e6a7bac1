"""The service with a model that says several labels of a text, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fmx.errors import PackageError
from fmx.package import Package
from fmx.predictor import PackagePredictor
from serve.shadow import find_shadow
from tests.serve.test_openapi import assert_service_is_as_described
from tests.serve.test_service import Service, running
from tests.serve.test_text_service import ask, infer, tensor
from tests.texts import CLASSES, make_labelled

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

TEXTS = [str(row["text"]) for row in make_labelled(12, seed=5)]


@pytest.fixture(scope="module")
def service(labels_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(labels_package, tmp_path_factory.mktemp("keys")) as made:
        yield made


def said_of(told: list[dict[str, object]]) -> float:
    return sum(bool(one["said"]) for item in told for one in item["labels"])  # type: ignore[attr-defined]


def counted(service: Service) -> float:
    told = service.request("GET", "/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith("fmx_predictions_total{"))


def test_texts_get_the_predictors_answers_and_what_is_said_is_counted(service: Service, labels_package: Package) -> None:
    before = counted(service)
    answer = ask(service, {"texts": TEXTS, "top_k": 3})
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    expected = PackagePredictor.open(labels_package.folder).predict([text.encode() for text in TEXTS], 3)
    for mine, theirs in zip(found, expected, strict=True):
        assert [(one["label"], one["said"]) for one in mine["labels"]] == [(one["label"], one["said"]) for one in theirs["labels"]]
        assert [one["score"] for one in mine["labels"]] == pytest.approx([one["score"] for one in theirs["labels"]], abs=1e-5)
    assert counted(service) - before == said_of(found) > 0


def test_protocol_gives_a_number_a_label(service: Service, labels_package: Package) -> None:
    outputs = {output["name"]: output for output in infer(service, labels_package.name, tensor([3], TEXTS[:3]), b"").json()["outputs"]}
    predictor = PackagePredictor.open(labels_package.folder)
    expected = predictor.task.shown(predictor.run_all(np.stack([predictor.task.row(text.encode()) for text in TEXTS[:3]])))
    assert outputs["probabilities"]["shape"] == [3, len(CLASSES)]
    assert np.abs(np.reshape(outputs["probabilities"]["data"], (3, len(CLASSES))) - expected).max() < 1e-5
    assert len(outputs["label"]["data"]) == 3


def test_description_and_service_agree(labels_package: Package, tmp_path: Path) -> None:
    assert_service_is_as_described(labels_package, tmp_path)


def test_shadow_of_another_task_is_refused_at_start(labels_package: Package, text_package: Package) -> None:
    """Its labels and input may be the same, and every row would fail."""
    assert (labels_package.manifest.labels, labels_package.manifest.input) == (text_package.manifest.labels, text_package.manifest.input)
    with pytest.raises(PackageError, match="another task"):
        find_shadow(str(labels_package.folder), text_package)
