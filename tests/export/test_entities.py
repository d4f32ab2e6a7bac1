"""Packages of models that find entities: parity, the budget in F1, golden rows, and what a package answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.pipeline import export_package
from finetune.evaluation import eager_probabilities
from finetune.network import restore_network
from finetune.training import train_run
from fmx.comparison import Limits, compare_packages
from fmx.data import reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.drift import CLASS_SHARE
from fmx.evaluation import evaluate_package
from fmx.package import Package
from fmx.predictor import PackagePredictor
from fmx.run import Run, task_of
from tests.texts import make_entities

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def test_rows(entity_run: Run) -> Rows:
    return read_splits(reopen_source(entity_run.info.settings), task_of(entity_run))["test"]


def test_graph_answers_tokens_of_any_length(entity_package: Package) -> None:
    model = onnx.load(entity_package.folder / "model.fp32.onnx")
    shapes = {out.name: [size.dim_param or size.dim_value for size in out.type.tensor_type.shape.dim] for out in model.graph.output}
    assert shapes == {"probabilities": ["batch", "sequence", 5], "sentence_embedding": ["batch", 32]}
    assert json.loads((entity_package.folder / "manifest.json").read_text())["output"] == {"kind": "tags", "name": "probabilities"}


def test_graph_is_drawn_by_the_newer_exporter(entity_package: Package) -> None:
    """An output called as an encoder's own tensor made an invalid graph, and the older exporter was taken without need."""
    assert entity_package.manifest.recipe["graph"]["exporter"] == "dynamo"


def test_every_row_is_answered_as_by_the_network_alone_and_in_company(entity_run: Run, entity_package: Package, test_rows: Rows) -> None:
    predictor, expected = PackagePredictor.open(entity_package.folder), eager_probabilities(restore_network(entity_run), test_rows, CPU)
    together = predictor.run_all(test_rows.values)
    assert together.shape == (len(test_rows), *predictor.task.answer_shape)
    assert np.abs(test_rows.picked(together) - test_rows.picked(expected)).max() < 1e-4
    for row, answer in list(zip(test_rows.values, together, strict=True))[:12]:
        assert np.abs(predictor.run(row[None])[0] - answer).max() < 1e-4
    assert (together[test_rows.values == 0] == 0).all()  # padding


def test_manifest_tells_the_entities_f1(entity_run: Run, entity_package: Package, test_rows: Rows) -> None:
    variant = entity_package.variant("fp32")
    assert variant.f1 == pytest.approx(entity_run.info.metrics["entities"]["f1"], abs=1e-6)
    assert variant.drop == 0.0
    reference = json.loads((entity_package.folder / "reference.json").read_text())
    assert set(reference[CLASS_SHARE]) == set(entity_run.info.labels)
    assert sum(reference[CLASS_SHARE].values()) == pytest.approx(1.0, abs=1e-4)
    empty = sum(not item.spans for item in test_rows.items) / len(test_rows)
    assert reference[CLASS_SHARE]["O"] == pytest.approx(empty, abs=0.1)
    assert 0.1 < empty < 0.9


def test_package_is_measured_as_its_run(entity_run: Run, entity_package: Package, entity_table: Path) -> None:
    found = evaluate_package(entity_package.folder, str(entity_table)).facts
    assert found["rows_of_export"]
    assert found["entities"] == entity_run.info.metrics["entities"]


def test_package_compares_with_itself(entity_package: Package, entity_table: Path) -> None:
    found = compare_packages(entity_package.folder, entity_package.folder, str(entity_table), Limits(slower=1e6))
    assert found.worse == ()
    assert found.facts["old"]["f1"] == found.facts["new"]["f1"] > 0.8
    assert found.facts["drop"] == 0.0


def test_entities_are_spans_of_the_text(entity_package: Package) -> None:
    predictor = PackagePredictor.open(entity_package.folder)
    rows = make_entities(40, seed=9)
    right = 0
    for row, answer in zip(rows, predictor.predict([str(row["text"]).encode() for row in rows]), strict=True):
        text = str(row["text"])
        assert all(text[one["start"] : one["end"]] == one["text"] for one in answer["entities"])
        found = [{key: one[key] for key in ("start", "end", "label")} for one in answer["entities"]]
        right += found == row["entities"]
    assert right >= 28


def test_text_longer_than_the_window_is_read_to_its_end(entity_package: Package) -> None:
    predictor = PackagePredictor.open(entity_package.folder)
    text = "the courier was very late today " * 30 + "in paris"
    (found,) = predictor.predict([text.encode()])
    assert ("paris", len(text) - 5) in [(one["text"], one["start"]) for one in found["entities"]]


def test_int8_is_judged_in_points_of_f1(entity_run: Run, tmp_path: Path) -> None:
    package = export_package(entity_run.folder, out=tmp_path, quantize="int8", on_miss="fp32")
    int8 = next(variant for variant in package.manifest.variants if variant.name.startswith("int8"))
    assert int8.f1 is not None
    assert "the entities' F1" in int8.why or "not faster" in int8.why or "otherwise than single rows" in int8.why
    assert int8.drop == pytest.approx(100 * (entity_run.info.metrics["entities"]["f1"] - int8.f1), abs=1e-3)


def test_golden_rows_are_replayed(entity_package: Package) -> None:
    assert PackagePredictor.open(entity_package.folder).replay_golden_rows() < 1e-5


def test_packages_of_other_windows_are_compared_by_spans(entity_encoder: Path, entity_table: Path, entity_package: Package, tmp_path: Path) -> None:
    """Their rows are others, and their units may be; what both find in a text is not."""
    settings: dict[str, Any] = {"epochs": 1, "max_length": 16, "device": "cpu", "precision": "fp32"}
    run = train_run(tmp_path / "runs", task="token-classification", data=str(entity_table), model=str(entity_encoder), **settings)
    other = export_package(run.folder, out=tmp_path / "packages", quantize="none")
    found = compare_packages(entity_package.folder, other.folder, str(entity_table), Limits(slower=1e6))
    assert found.facts["old"]["f1"] > found.facts["new"]["f1"]
    assert any("F1 fell" in sentence for sentence in found.worse)
