"""The commands around training, as a user types them, on a probe that trains in a second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import make_digit_folder
from tests.e2e.conftest import Fmx


@pytest.fixture
def two_runs(fmx: Fmx, tmp_path: Path) -> Path:
    data = make_digit_folder(tmp_path / "digits", 3, 30)
    trained = fmx("train", "--data", str(data), "--size", "32", "--epochs", "3", "--method", "linear-probe", "--seeds", "2", "--name", "p")
    assert trained.returncode == 0, trained.stderr
    assert "standard deviation" in trained.stdout
    return data


def test_runs_are_listed_combined_evaluated_explained_and_asked_what_to_label(fmx: Fmx, tmp_path: Path, two_runs: Path) -> None:
    listed = json.loads(fmx("runs", "--json").stdout)
    assert {run["name"] for run in listed} == {"p-0", "p-1"}
    assert "p-0" in fmx("runs").stdout
    assert str(two_runs) in fmx("runs").stdout

    together = fmx("ensemble", "p-0", "p-1", "--name", "both", "--json")
    assert together.returncode == 0, together.stderr
    assert json.loads(together.stdout)["weights_origin"].startswith("ensemble of p-")
    assert fmx("soup", "p-0", "p-1").returncode in (0, 5)
    assert fmx("soup", "p-0").returncode == 2

    evaluated = fmx("eval", "both", "--data", str(two_runs), "--report", str(tmp_path / "r.html"))
    assert evaluated.returncode == 0, evaluated.stderr
    assert "those that it was judged on before" in evaluated.stdout
    assert "<svg" in (tmp_path / "r.html").read_text()

    image = next((two_runs / "class-0").iterdir())
    explained = json.loads(fmx("explain", "p-0", str(image), "--json").stdout)
    assert explained[0]["method"] == "Grad-CAM"
    assert (tmp_path / explained[0]["file"]).read_bytes()[:4] == b"\x89PNG"

    chosen = fmx("data", "select", "p-0", "--pool", str(two_runs), "-n", "4", "--copy-to", str(tmp_path / "label"), "--json")
    assert len(json.loads(chosen.stdout)) == len(list((tmp_path / "label").iterdir())) == 4


def test_search_by_two_workers_counts_its_trials_once(fmx: Fmx, tmp_path: Path) -> None:
    data = make_digit_folder(tmp_path / "digits", 2, 20)
    options = ("--data", str(data), "--size", "32", "--epochs", "2", "--method", "linear-probe")
    found = fmx("tune", "study", "--trials", "4", "--workers", "2", *options, "--json")
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert 4 <= len(answer["trials"]) <= 5  # the other worker may have begun one more
    assert len({trial["parameters"]["lr"] for trial in answer["trials"]}) == len(answer["trials"])
    again = fmx("train", "--config", str(tmp_path / "studies" / "study" / "best.toml"), "--json")
    assert json.loads(again.stdout)["metrics"]["validation_accuracy"] == answer["validation_accuracy"]
