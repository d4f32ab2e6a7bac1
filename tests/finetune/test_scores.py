"""Scores of pairs from training to package: measured as numbers, judged in points of correlation, compared, served by the predictor."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from export.pipeline import export_package
from finetune.combination import make_soup
from finetune.evaluation import eager_probabilities, evaluate_run
from finetune.network import restore_network
from finetune.settings import check_settings
from finetune.training import train_run
from fmx.cli import output
from fmx.comparison import Limits, compare_packages
from fmx.data import reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import BudgetError, UsageError
from fmx.evaluation import evaluate_package, judgement_of
from fmx.package import Package
from fmx.pairs import joined, texts_of
from fmx.predictor import PackagePredictor
from fmx.run import Run, task_of
from fmx.scores import expected
from tests.texts import make_scored, write_pairs

TASK = "text-scores"
CPU = torch.device("cpu")


def rows_of(run: Run, split: str = "test") -> Rows:
    return read_splits(reopen_source(run.info.settings), task_of(run))[split]


def test_run_of_scores_learns_and_is_measured_as_scipy_does(scores_run: Run, scores_table: Path) -> None:
    info, test = scores_run.info, rows_of(scores_run)
    said = expected(eager_probabilities(restore_network(scores_run), test, CPU), test.grades)
    measured = info.metrics["scores"]
    assert measured["pearson"] > 0.85
    assert measured["pearson"] == pytest.approx(stats.pearsonr(said, test.scores)[0], abs=1e-6)
    assert measured["spearman"] == pytest.approx(stats.spearmanr(said, test.scores)[0], abs=1e-6)
    assert measured["mean_absolute_error"] == pytest.approx(np.abs(said - test.scores).mean())
    assert 0 <= said.min() < 1.5
    assert 3.5 < said.max() <= 5
    written = {(question, answer): float(score) for _, question, answer, score in make_scored(240)}
    for item in test.items:
        question, answer = texts_of(item.read())
        assert item.score == written[question, answer]


def test_epochs_are_judged_by_the_correlation(scores_run: Run) -> None:
    lines = [json.loads(line) for line in (scores_run.folder / "metrics.jsonl").read_text().splitlines()]
    validation = rows_of(scores_run, "validation")
    said = eager_probabilities(before_temperature(scores_run), validation, CPU)
    grades = np.array(validation.grades)
    best = lines[scores_run.info.best_epoch - 1]["validation_accuracy"]
    assert best == pytest.approx(stats.pearsonr(expected(said, validation.grades), grades[validation.labels])[0], abs=1e-4)
    assert best == max(line["validation_accuracy"] for line in lines)


def before_temperature(run: Run) -> Any:
    """Rebuild the network as it was trained, before its temperature."""
    return restore_network(replace(run, info=run.info.model_copy(update={"temperature": 1.0})))


def test_baseline_is_ridge_regression_and_ranks_too(scores_run: Run) -> None:
    metrics = scores_run.info.metrics
    assert 0.5 < metrics["score_baselines"]["tfidf"] < 1
    assert 0 < metrics["ranking_baselines"]["tfidf"]["ndcg"] <= 1
    assert metrics["ranking"]["ndcg"] > 0.9


def test_run_is_measured_again_alike(scores_run: Run, scores_table: Path) -> None:
    facts = evaluate_run(scores_run, str(scores_table), CPU).facts
    assert facts["scores"] == pytest.approx(scores_run.info.metrics["scores"], abs=1e-6)


def test_package_is_measured_as_its_run_and_answers_in_the_scores_unit(scores_run: Run, scores_package: Package, scores_table: Path) -> None:
    manifest = scores_package.manifest
    facts = evaluate_package(scores_package.folder, str(scores_table)).facts
    assert facts["rows_of_export"]
    assert facts["scores"]["pearson"] == pytest.approx(scores_run.info.metrics["scores"]["pearson"], abs=1e-5)
    assert manifest.variants[0].pearson == pytest.approx(facts["scores"]["pearson"], abs=1e-5)
    assert (manifest.task, manifest.output.kind) == (TASK, "scores")
    predictor, test = PackagePredictor.open(scores_package.folder), rows_of(scores_run)
    answers = predictor.predict([item.read() for item in test.items])
    said = expected(eager_probabilities(restore_network(scores_run), test, CPU), test.grades)
    assert [list(answer) for answer in answers] == [["score"]] * len(test)
    assert [answer["score"] for answer in answers] == pytest.approx(said.tolist(), abs=1e-4)
    high, low = predictor.predict([joined([b"question", text]) for text in (b"great lovely perfect thanks", b"refund card invoice charged")])
    assert high["score"] > low["score"] + 2


def test_package_is_measured_on_other_scores_that_make_other_grades(scores_package: Package, tmp_path: Path) -> None:
    rows = [row for row in make_scored(200, seed=3) if float(row[3]) < 3]
    facts = evaluate_package(scores_package.folder, str(write_pairs(tmp_path / "low.csv", rows))).facts
    assert not facts["rows_of_export"]
    assert facts["scores"]["pearson"] > 0.5


def test_int8_is_judged_in_points_of_correlation(scores_run: Run, tmp_path: Path) -> None:
    package = export_package(scores_run.folder, out=tmp_path, quantize="int8", on_miss="fp32", max_drop=50.0)
    fp32, int8 = (next(one for one in package.manifest.variants if one.name == name) for name in ("fp32", "int8"))
    assert fp32.pearson is not None
    assert int8.pearson is not None
    assert int8.drop == pytest.approx(100 * (scores_run.info.metrics["scores"]["pearson"] - int8.pearson), abs=1e-3)
    assert "correlation" in (package.folder / "report.html").read_text()


def test_comparison_is_of_correlations(scores_package: Package, tiny_encoder: Path, scores_table: Path, tmp_path: Path) -> None:
    limits = Limits(slower=1e6, larger=1e6)
    same = compare_packages(scores_package.folder, scores_package.folder, str(scores_table), limits)
    assert same.worse == ()
    assert same.facts["drop"] == 0.0
    assert same.facts["old"]["pearson"] == pytest.approx(scores_package.manifest.variants[0].pearson, abs=1e-5)
    options: dict[str, Any] = {"model": str(tiny_encoder), "max_length": 32, "device": "cpu", "precision": "fp32"}
    few = write_pairs(tmp_path / "few.csv", make_scored(60, seed=8))
    poor = train_run(tmp_path / "runs", task="text-pair", scores=True, data=str(few), epochs=1, **options)
    package = export_package(poor.folder, out=tmp_path / "packages")
    assert package.manifest.labels != scores_package.manifest.labels
    worse = compare_packages(scores_package.folder, package.folder, str(scores_table), limits)
    assert worse.facts["drop"] > 0.5
    assert any(sentence.startswith("Correlation fell by") for sentence in worse.worse)
    assert worse.facts["old"]["pearson"] > worse.facts["new"]["pearson"]
    assert not any("Labels" in sentence or "order" in sentence for sentence in worse.worse)


def test_packages_of_scores_and_of_classes_are_not_compared_row_by_row(
    scores_package: Package, pair_package: Package, scores_table: Path, pair_table: Path
) -> None:
    """Labels that are also grades made a KeyError of it."""
    for old, new, table in ((scores_package, pair_package, scores_table), (pair_package, scores_package, pair_table)):
        found = compare_packages(old.folder, new.folder, str(table), Limits())
        assert "old" not in found.facts
        assert any(sentence.startswith("The task is") for sentence in found.worse)


@pytest.mark.parametrize("which", ["scores_run", "labels_run", "entity_run", "text_run"])
def test_network_is_judged_as_its_run_was_measured(which: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(which)
    test = rows_of(run)
    found = judgement_of(eager_probabilities(restore_network(run), test, CPU), test, run.info.labels)
    assert found == pytest.approx(output.judged(run.info.metrics)[1], abs=1e-6)


def test_soup_is_judged_by_what_its_runs_are(tiny_encoder: Path, labels_table: Path, scores_table: Path, tmp_path: Path) -> None:
    """A soup of entities, of several labels or of scores was judged by accuracy."""
    options: dict[str, Any] = {"model": str(tiny_encoder), "max_length": 32, "device": "cpu", "precision": "fp32", "epochs": 2, "lr": 3e-3}
    for task, table, judged in (("text-labels", labels_table, "labels' F1"), (TASK, scores_table, "scores' correlation")):
        runs = [train_run(tmp_path / task, task=task, data=str(table), seed=seed, **options) for seed in (0, 1)]
        said: list[str] = []
        with suppress(BudgetError):
            make_soup([str(run.folder) for run in runs], out=tmp_path / "soups", say=said.append)
        assert [f"validation {judged}" in line for line in said] == [True] * 3
        if task == "text-labels":
            assert said[0].endswith(f"{runs[0].info.metrics['validation_accuracy']:.2%}")


@pytest.mark.parametrize("method", ["linear-probe", "lp-ft", "lora", "norm-bias", "ia3", "adapter"])
def test_every_method_learns_scores(method: str, tiny_encoder: Path, scores_table: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": str(tiny_encoder), "max_length": 32, "device": "cpu", "precision": "fp32", "epochs": 2}
    run = train_run(tmp_path, task="text-pair", scores=True, data=str(scores_table), method=method, **options)
    assert run.info.task == TASK
    test = rows_of(run)
    said = expected(eager_probabilities(restore_network(run), test, CPU), test.grades)
    assert run.info.metrics["scores"]["pearson"] == pytest.approx(stats.pearsonr(said, test.scores)[0], abs=1e-5)


def test_rare_scores_may_weigh_more(tiny_encoder: Path, scores_table: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": str(tiny_encoder), "max_length": 32, "device": "cpu", "precision": "fp32", "epochs": 1}
    runs = [train_run(tmp_path, task=TASK, data=str(scores_table), balance=balance, **options) for balance in ("none", "weights", "sampler")]
    assert len({run.info.weights_sha256 for run in runs}) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "text-classification", "scores": True}, "--scores is for --task text-pair"),
        ({"scores": True}, "--scores is for --task text-pair"),
        ({"task": "text-pair", "scores": True, "method": "few-shot"}, "scores are no labels"),
        ({"task": "text-pair", "scores": True, "data": "digits"}, "a column of numbers"),
    ],
)
def test_settings_that_do_not_go_with_scores_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_settings({"data": "rows.csv", **options})


def test_scores_may_be_asked_for_either_way() -> None:
    flag, task = check_settings({"task": "text-pair", "scores": True, "data": "rows.csv"}), check_settings({"task": TASK, "data": "rows.csv"})
    assert flag == task
    assert check_settings({"task": "text-pair", "scores": False, "data": "rows.csv"}).task == "text-pair"
