"""Several labels a text: reading them, training, thresholds, measures, export, and what a package answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from export.pipeline import export_package
from finetune.baselines import compare_labels
from finetune.evaluation import eager_probabilities, evaluate_run
from finetune.network import restore_network
from finetune.settings import check_settings
from finetune.training import train_run
from fmx.comparison import Limits, compare_packages
from fmx.data import Columns, open_source, reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import DataError, UsageError
from fmx.evaluation import evaluate_package
from fmx.package import Package
from fmx.predictor import PackagePredictor
from fmx.run import Run, task_of
from fmx.statistics import best_thresholds, shifted
from tests.texts import CLASSES, make_labelled, write_entities

TASK = "text-labels"
CPU = torch.device("cpu")


def rows_of(run: Run, split: str = "test") -> Rows:
    return read_splits(reopen_source(run.info.settings), task_of(run))[split]


def said_by(run: Run, rows: Rows) -> np.ndarray:
    return eager_probabilities(restore_network(run), rows, CPU)[..., 1] >= 0.5


@pytest.mark.parametrize("written", ["list", "|", ";", ","])
def test_labels_are_a_list_or_a_string(tmp_path: Path, written: str) -> None:
    rows = make_labelled(40)
    if written == "list":
        path = write_entities(tmp_path / "rows.jsonl", rows)
    else:
        path = tmp_path / "rows.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "labels"), *((row["text"], f" {written} ".join(row["labels"])) for row in rows)])  # type: ignore[arg-type]
    source = open_source(str(path), task=TASK)
    assert source.labels == CLASSES
    found = {item.read().decode(): [CLASSES[i] for i in item.several] for items in source.splits.values() for item in items}
    assert found == {str(row["text"]): row["labels"] for row in rows}
    assert any(not labels for labels in found.values())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": f"a {n}", "labels": ["x"]} for n in range(9)], "1 different labels"),
        ([{"text": f"a {n}", "labels": ["x", ["y"]]} for n in range(9)], "no string or number"),
        ([{"text": f"a {n}", "labels": ["x", None]} for n in range(9)], "no label"),
    ],
)
def test_bad_labels_are_told(tmp_path: Path, rows: list[dict[str, object]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_source(str(write_entities(tmp_path / "rows.jsonl", rows)), task=TASK, columns=Columns(label="labels"))


def test_label_of_the_test_rows_alone_is_an_error(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        labels = ["y", "z"] if split == "test" else ["x", "y"]
        write_entities(tmp_path / f"{split}.jsonl", [{"text": f"{split} {n}", "labels": labels} for n in range(4)])
    with pytest.raises(DataError, match="classes that the training rows do not have: z"):
        open_source(str(tmp_path), task=TASK)


def test_run_of_several_labels_learns_and_is_measured_as_scikit_learn_does(labels_run: Run) -> None:
    info, test = labels_run.info, rows_of(labels_run)
    assert (info.task, info.labels) == (TASK, CLASSES)
    said = said_by(labels_run, test)
    measured = info.metrics["labels"]
    assert measured["f1"] > 0.8
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert measured[name] == pytest.approx(score(test.labels, said, average="micro"))
    assert info.metrics["macro_f1"] == pytest.approx(f1_score(test.labels, said, average="macro"))
    assert info.accuracy.value == pytest.approx((said == test.labels).all(axis=1).mean())
    assert [row["rows"] for row in info.metrics["classes"]] == test.labels.sum(axis=0).tolist()
    assert "not said" in (labels_run.folder / "report.html").read_text()


def test_thresholds_of_the_validation_rows_are_in_the_head(labels_run: Run) -> None:
    """What the network says from 0.5 on is what it said from the thresholds on before."""
    validation = rows_of(labels_run, "validation")
    raw = restore_network(labels_run, calibrated=False)
    with torch.inference_mode():
        logits = raw(torch.from_numpy(validation.values))[..., 1].numpy() / labels_run.info.temperature
    chances = 1 / (1 + np.exp(-logits))
    assert labels_run.info.thresholds == best_thresholds(chances, validation.labels)
    assert np.array_equal(said_by(labels_run, validation), chances >= np.array(labels_run.info.thresholds) - 1e-9)


def test_thresholds_serve_their_rows_best_and_stay_in_the_middle() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
    chances = np.array([[0.3, 0.1, 0.9], [0.4, 0.9, 0.9], [0.1, 0.2, 0.1], [0.2, 0.8, 0.1]])
    first, second, third = best_thresholds(chances, labels)
    assert 0.2 < first <= 0.3
    assert second == 0.5
    assert third == 0.5  # no row has it: nothing was learnt about it


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=20), st.floats(0.05, 0.95))
def test_shift_makes_one_half_of_the_threshold_and_keeps_the_order(chances: list[float], threshold: float) -> None:
    found = shifted(np.array(chances)[:, None], (threshold,))[:, 0]
    assert shifted(np.array([[threshold]]), (threshold,))[0, 0] == pytest.approx(0.5)
    assert (np.diff(found[np.argsort(chances)]) >= -1e-12).all()
    assert ((found > 0) & (found < 1)).all()


def test_run_is_measured_again_alike(labels_run: Run, labels_table: Path) -> None:
    found = evaluate_run(labels_run, str(labels_table), CPU)
    assert found.facts["labels"] == labels_run.info.metrics["labels"]
    assert "not said" in found.report()


def test_training_that_does_not_beat_its_baseline_says_so(labels_run: Run) -> None:
    said: list[str] = []
    told = compare_labels(
        {split: rows_of(labels_run, split) for split in ("train", "validation", "test")}, CLASSES, {"labels": {"f1": 0.0}}, said.append
    )
    assert "did not beat TF-IDF" in said[0]
    assert told["label_baselines"]["tfidf"] > 0.8
    assert told["label_baselines"] == labels_run.info.metrics["label_baselines"]


@pytest.mark.parametrize("method", ["linear-probe", "lp-ft", "lora", "norm-bias", "ia3", "adapter"])
def test_every_method_trains_several_labels(tiny_encoder: Path, labels_table: Path, tmp_path: Path, method: str) -> None:
    settings: dict[str, Any] = {"epochs": 1, "max_length": 32, "device": "cpu", "precision": "fp32", "method": method}
    run = train_run(tmp_path, task="text-classification", multi_label=True, data=str(labels_table), model=str(tiny_encoder), **settings)
    assert run.info.task == TASK
    assert np.isfinite(run.info.metrics["labels"]["f1"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": TASK, "data": "a.csv", "method": "few-shot"}, "use lp-ft"),
        ({"task": TASK, "data": "a.csv", "balance": "sampler"}, "--balance is for rows of one class"),
        ({"task": "text-pair", "data": "a.csv", "multi_label": True}, "--multi-label is for --task text-classification"),
        ({"multi_label": True}, "--multi-label is for --task text-classification"),
        ({"task": TASK, "data": "digits"}, "a column of labels"),
    ],
)
def test_what_has_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_settings(options)


def test_settings_of_a_run_are_read_again(labels_run: Run) -> None:
    assert check_settings(labels_run.info.settings).task == TASK


def test_package_gives_each_label_a_probability_of_its_own(labels_run: Run, labels_package: Package, labels_table: Path) -> None:
    manifest = json.loads((labels_package.folder / "manifest.json").read_text())
    assert manifest["output"] == {"kind": "several", "name": "probabilities"}
    assert manifest["recipe"]["graph"]["exporter"] == "dynamo"
    model = onnx.load(labels_package.folder / "model.fp32.onnx")
    shapes = {out.name: [size.dim_param or size.dim_value for size in out.type.tensor_type.shape.dim] for out in model.graph.output}
    assert shapes == {"probabilities": ["batch", 3], "sentence_embedding": ["batch", 32]}
    test, predictor = rows_of(labels_run), PackagePredictor.open(labels_package.folder)
    assert np.abs(predictor.run_all(test.values) - eager_probabilities(restore_network(labels_run), test, CPU)).max() < 1e-4
    assert labels_package.variant("fp32").f1 == pytest.approx(labels_run.info.metrics["labels"]["f1"], abs=1e-6)
    assert labels_package.variant("fp32").accuracy == labels_run.info.accuracy
    assert evaluate_package(labels_package.folder, str(labels_table)).facts["labels"] == labels_run.info.metrics["labels"]
    assert predictor.replay_golden_rows() < 1e-5
    same = compare_packages(labels_package.folder, labels_package.folder, str(labels_table), Limits(slower=1e6))
    assert same.worse == ()
    assert same.facts["drop"] == 0.0


def test_predictions_say_which_labels_hold(labels_run: Run, labels_package: Package) -> None:
    test = rows_of(labels_run)
    answers = PackagePredictor.open(labels_package.folder).predict([item.read() for item in test.items])
    said = [{one["label"] for one in answer["labels"] if one["said"]} for answer in answers]
    assert said == [{CLASSES[i] for i in np.flatnonzero(row)} for row in said_by(labels_run, test)]
    assert any(len(labels) == 2 for labels in said)
    assert any(not labels for labels in said)
    assert all([one["score"] for one in answer["labels"]] == sorted((one["score"] for one in answer["labels"]), reverse=True) for answer in answers)


def test_int8_is_judged_in_points_of_the_labels_f1(labels_run: Run, tmp_path: Path) -> None:
    package = export_package(labels_run.folder, out=tmp_path, quantize="int8", on_miss="fp32")
    int8 = next(variant for variant in package.manifest.variants if variant.name.startswith("int8"))
    assert int8.f1 is not None
    assert int8.drop == pytest.approx(100 * (labels_run.info.metrics["labels"]["f1"] - int8.f1), abs=1e-3)
    assert int8.comparison is not None
    assert int8.comparison.worst_class in CLASSES
