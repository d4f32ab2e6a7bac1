"""Runs made from runs, explanations, choices and searches, on small real trainings."""

from __future__ import annotations

import io
import json
import threading
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from export.pipeline import export_package
from finetune.averaging import mean_state
from finetune.combination import make_ensemble, make_soup
from finetune.evaluation import eager_logits, evaluate_run
from finetune.explanation import RunExplainer, last_feature_map
from finetune.loop import Fit
from finetune.network import build_network, restore_network
from finetune.selection import k_center, select_images
from finetune.training import train_run
from finetune.tuning import tune
from fmx.data import reopen_source
from fmx.data.rows import read_splits
from fmx.errors import BudgetError, DataError, UsageError
from fmx.explanation import PackageExplainer, occlusion, overlay, write_overlays
from fmx.predictor import PackagePredictor
from fmx.run import Run, list_runs, task_of
from fmx.statistics import softmax
from tests.conftest import MakeFolder, image_task, make_digit_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("members")


@pytest.fixture(scope="module")
def members(home: Path) -> list[Run]:
    """Two seeds of one model, and another model of the same size."""
    data = str(make_digit_folder(home / "digits", 3, 30))
    options: dict[str, Any] = {"data": data, "size": 32, "out": home / "runs", "precision": "fp32"}
    return [
        train_run(**options, epochs=2, seed=0),
        train_run(**options, epochs=2, seed=1),
        train_run(**options, epochs=1, model="squeezenet1_1", weights="none"),
    ]


def validation_accuracy(run: Run) -> float:
    rows = read_splits(reopen_source(run.info.settings), task_of(run))["validation"]
    return float((eager_logits(restore_network(run), rows, torch.device("cpu")).argmax(axis=1) == rows.labels).mean())


def test_soup_is_the_mean_of_its_members_where_that_is_better(members: list[Run], home: Path) -> None:
    best = max(validation_accuracy(run) for run in members[:2])
    expected = mean_state([load_file(run.weights) for run in members[:2]])
    network = restore_network(members[0], calibrated=False)
    network.body.load_state_dict(expected)
    rows = read_splits(reopen_source(members[0].info.settings), image_task(network.spec))["validation"]
    together = float((eager_logits(network, rows, torch.device("cpu")).argmax(axis=1) == rows.labels).mean())
    given = [str(run.folder) for run in members[:2]]
    if together <= best:
        with pytest.raises(BudgetError, match="No average is better"):
            make_soup(given, out=home / "soups")
        assert not (home / "soups").exists()
    else:
        soup = make_soup(given, out=home / "soups")
        assert validation_accuracy(soup) == together
        assert all(torch.allclose(value.float(), expected[key].float(), atol=1e-6) for key, value in load_file(soup.weights).items())


def test_soup_of_two_equal_runs_is_no_gain_and_of_better_averages_is_kept(home: Path, members: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """The greedy rule itself, on accuracies that are given: the second helps, the third does not."""
    import finetune.combination as combination

    third = train_run(data=members[0].info.settings["data"], size=32, out=home / "runs", precision="fp32", epochs=1, seed=2)
    accuracies = iter([0.5, 0.4, 0.3, 0.6, 0.55])
    monkeypatch.setattr(combination, "_judgement", lambda network, found: next(accuracies))
    soup = make_soup([str(run.folder) for run in (*members[:2], third)], out=home / "greedy")
    expected = mean_state([load_file(run.weights) for run in members[:2]])
    assert soup.info.weights_origin == f"soup of {members[0].info.name}, {members[1].info.name}"
    assert all(torch.allclose(value.float(), expected[key].float(), atol=1e-6) for key, value in load_file(soup.weights).items())


def test_soup_of_two_models_or_one_run_is_refused(members: list[Run]) -> None:
    with pytest.raises(UsageError, match="one model"):
        make_soup([str(members[0].folder), str(members[2].folder)])
    with pytest.raises(UsageError, match="two runs"):
        make_soup([str(members[0].folder)] * 2)


def test_runs_on_other_rows_are_not_combined(members: list[Run], digit_folder: MakeFolder) -> None:
    other = train_run(data=str(digit_folder(3, 20)), size=32, epochs=1, method="linear-probe")
    with pytest.raises(DataError, match="other rows"):
        make_ensemble([str(members[0].folder), str(other.folder)])


def test_ensemble_averages_calibrated_probabilities_and_exports_as_one_graph(members: list[Run], home: Path) -> None:
    chosen = [members[0], members[2]]  # their normalisations differ
    ensemble = make_ensemble([str(run.folder) for run in chosen], out=home / "ensembles")
    rows = read_splits(reopen_source(ensemble.info.settings), task_of(ensemble))["test"]
    restored = restore_network(ensemble, calibrated=False)
    together = softmax(eager_logits(restored, rows, torch.device("cpu")))
    alone = [softmax(eager_logits(restore_network(run), rows, torch.device("cpu"))) for run in chosen]
    assert np.allclose(together, np.mean(alone, axis=0), atol=1e-5)
    package = export_package(ensemble.folder, out=home / "packages")
    served = PackagePredictor.open(package.folder).run_all(rows.values)
    assert np.allclose(served, softmax(eager_logits(restore_network(ensemble), rows, torch.device("cpu"))), atol=1e-4)


def test_runs_are_listed_with_unfinished_and_damaged_ones(members: list[Run], home: Path) -> None:
    (home / "runs" / "broken").mkdir()
    (home / "runs" / "broken" / "run.json").write_text("{")
    (home / "runs" / "stopped" / "checkpoint").mkdir(parents=True)
    listed = {run.name: run for run in list_runs(home / "runs")}
    assert listed[members[0].info.name].info == members[0].info
    assert "damaged" in listed["broken"].trouble
    assert "--resume stopped" in listed["stopped"].trouble
    assert json.dumps([run.as_json() for run in listed.values()])


def test_run_is_evaluated_as_its_package_is(members: list[Run], home: Path) -> None:
    run = members[0]
    result = evaluate_run(run, run.info.settings["data"], torch.device("cpu"))
    assert result.facts["accuracy"] == run.info.metrics["accuracy"]
    assert result.facts["rows_of_run"]
    report = result.report()
    assert report.count("<svg") == 1
    assert "Worst mistakes" in report


def test_grad_cam_points_at_the_object_and_occlusion_answers_for_a_package(members: list[Run], home: Path) -> None:
    run = members[0]
    explainer = RunExplainer(run)
    assert explainer.method == "Grad-CAM"
    image = read_splits(reopen_source(run.info.settings), task_of(run))["test"].values[0]
    heat = explainer.heat(image, 0)
    assert heat.ndim == 2
    assert heat.min() >= 0
    package = export_package(run.folder, out=home / "explained")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    for one in (explainer, PackageExplainer(package.folder)):
        written = write_overlays(one, [("digit.png", buffer.getvalue())], None, home / f"why-{one.method}")
        with Image.open(written[0]["file"]) as drawn:
            assert drawn.size == (448, 448)
        assert written[0]["label"] in run.info.labels
    with pytest.raises(UsageError, match="knows no label"):
        write_overlays(explainer, [], "class-9", home)


def test_occlusion_finds_the_place_that_matters() -> None:
    row = np.full((48, 48, 3), 128, dtype=np.uint8)
    row[4:12, 36:44] = 255

    def answer(rows: np.ndarray) -> np.ndarray:
        bright = rows[:, 4:12, 36:44].mean(axis=(1, 2, 3)) / 255
        return np.stack([bright, 1 - bright], axis=1)

    heat = occlusion(answer, row, 0)
    down, across = np.unravel_index(heat.argmax(), heat.shape)
    assert down < 3
    assert across > 8
    assert overlay(row, heat)[:4] == b"\x89PNG"


def test_models_with_attention_have_no_last_feature_map() -> None:
    vit, _, _ = build_network("vit_b_16", "none", 32, 2)
    resnet, _, _ = build_network("resnet18", "none", 64, 2)
    assert last_feature_map(vit.body, 32) is None
    assert last_feature_map(resnet.body, 64) is resnet.body.get_submodule("layer4.1")


def test_selection_is_uncertain_and_diverse(members: list[Run], digit_folder: MakeFolder, tmp_path: Path) -> None:
    pool = digit_folder(5, 12, root=tmp_path / "pool")
    chosen = select_images(members[0], pool, 6)
    assert len({name for name, _ in chosen}) == 6
    assert chosen[0][1] == max(entropy for _, entropy in chosen)
    with pytest.raises(UsageError, match="fewer than"):
        select_images(members[0], pool, 1000)
    features = np.concatenate([np.tile([[1.0, 0.0]], (20, 1)), [[0.0, 1.0]]])
    entropy = np.append(np.linspace(1, 0.9, 20), 0.95)
    assert k_center(features, entropy, 2) == [0, 20]


def test_selection_takes_a_convolutional_head(members: list[Run], digit_folder: MakeFolder, tmp_path: Path) -> None:
    assert len(select_images(members[2], digit_folder(2, 8, root=tmp_path / "pool"), 3)) == 3


def test_search_goes_on_where_it_was_and_writes_a_config_that_trains(digit_folder: MakeFolder, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": str(digit_folder(2, 20)), "size": 32, "epochs": 3, "method": "linear-probe"}
    said: list[str] = []
    first = tune("s", trials=3, say=said.append, **options)
    assert len(first.trials) == 3
    more = tune("s", trials=5, say=said.append, **options)
    assert [trial["number"] for trial in more.trials] == [0, 1, 2, 3, 4]
    assert more.validation_accuracy == max(trial["validation_accuracy"] or 0 for trial in more.trials if trial["state"] == "complete")
    config = tomllib.loads((more.folder / "best.toml").read_text())
    assert config["method"] == "linear-probe"
    run = train_run(**{key.replace("-", "_"): value for key, value in config.items()})
    assert run.info.metrics["validation_accuracy"] == more.validation_accuracy
    with pytest.raises(UsageError, match="cannot be searched"):
        tune("t", trials=1, search=("colour",), **options)
    with pytest.raises(UsageError, match="both given and searched"):
        tune("t", trials=1, search=("lr",), lr=0.1, **options)


def test_bad_trials_are_stopped_early(digit_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: trial.number > 0)
    found = tune("s", trials=3, data=str(digit_folder(2, 20)), size=32, epochs=3, method="linear-probe")
    assert [trial["state"] for trial in found.trials] == ["complete", "pruned", "pruned"]


def test_search_on_unusable_data_ends_at_once_and_another_study_of_that_name_is_refused(digit_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        tune("s", trials=5, data=str(tmp_path / "nowhere"), method="linear-probe")
    options: dict[str, Any] = {"data": str(digit_folder(2, 20)), "size": 32, "epochs": 2, "method": "linear-probe"}
    tune("t", trials=1, **options)
    with pytest.raises(UsageError, match="--size"):
        tune("t", trials=2, **{**options, "size": 40})


def test_training_that_is_broken_off_leaves_no_thread_behind(digit_folder: MakeFolder) -> None:
    """TensorBoard's writer has a thread, which wrote on into a folder that was gone already."""

    def stop(fit: Fit) -> None:
        raise KeyboardInterrupt

    before = set(threading.enumerate())  # of other tests
    with pytest.raises(KeyboardInterrupt):
        train_run(on_epoch=stop, data=str(digit_folder(2, 20)), size=32, epochs=2, method="linear-probe")
    assert not [thread for thread in set(threading.enumerate()) - before if type(thread).__name__ == "_AsyncWriterThread"]
