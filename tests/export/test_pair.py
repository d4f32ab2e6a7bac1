"""Exporting a run of pairs: segments are told inside the graph, from the ids."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from finetune.network import restore_network
from fmx.contract import TextInput
from fmx.evaluation import evaluate_package
from fmx.package import Package
from fmx.pairs import joined
from fmx.predictor import PackagePredictor
from fmx.run import Run, task_of
from fmx.statistics import softmax
from tests.export.test_text import assert_answers_as_the_run


def test_graph_answers_as_the_run_does(pair_package: Package, pair_run: Run) -> None:
    assert_answers_as_the_run(pair_package, pair_run)


@pytest.mark.parametrize("length", [5, 8, 17, 48])
def test_segments_are_right_at_every_length(pair_package: Package, pair_run: Run, length: int) -> None:
    spec, network = pair_run.info.input, restore_network(pair_run)
    assert isinstance(spec, TextInput)
    rows = task_of(pair_run).noise(4)
    rows[rows == spec.separator_id] = (spec.pad_id + 1) % spec.vocabulary
    rows[:, length:] = spec.pad_id
    for place, row in enumerate(rows):
        row[1 + place % 3] = spec.separator_id
        row[length - 1] = spec.separator_id
    predictor = PackagePredictor.open(pair_package.folder, variant="fp32")
    with torch.inference_mode():
        eager = softmax(network(torch.from_numpy(rows)).numpy())
    assert np.abs(predictor.run(rows) - eager).max() < 1e-4


def test_graph_takes_ids_alone(pair_package: Package) -> None:
    for variant in pair_package.manifest.variants:
        graph = onnx.load(pair_package.folder / variant.file).graph
        assert [given.name for given in graph.input] == ["input_ids"]


def test_padding_changes_no_answer(pair_package: Package) -> None:
    predictor = PackagePredictor.open(pair_package.folder, variant="fp32")
    short, long = (predictor.task.row(joined(pair)) for pair in ((b"late", b"lovely"), (b"the courier was late " * 3, b"thanks " * 9)))
    alone, beside = predictor.run(short[None])[0], predictor.run(np.stack([short, long]))[0]
    assert np.abs(alone - beside).max() < 1e-5


def test_package_is_measured_with_its_queries(pair_package: Package, pair_run: Run, pair_table: object) -> None:
    facts = evaluate_package(pair_package.folder, str(pair_table), variant="fp32").facts
    assert facts["rows_of_export"]
    assert facts["ranking"] == pytest.approx(pair_run.info.metrics["ranking"])
    contract = json.loads((pair_package.folder / "manifest.json").read_text())
    assert (contract["task"], contract["input"]["texts"]) == ("text-pair", 2)


def test_score_is_the_chance_of_being_relevant(pair_package: Package) -> None:
    predictor = PackagePredictor.open(pair_package.folder)
    good, bad = predictor.predict([joined([b"question", b"lovely thanks perfect"]), joined([b"question", b"refund invoice card"])], 2)
    for answer in (good, bad):
        chances = {one["label"]: one["score"] for one in answer["labels"]}
        assert answer["score"] == pytest.approx(chances["1"])
    assert good["score"] > bad["score"]
