from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fmx.errors import PackageError, UsageError
from fmx.package import Package, load_package
from serve.deploy.folder import check_target, write_folder
from tests.serve.deploy.conftest import PlanOf, Written


def test_folder_holds_everything_and_says_from_what(written: Written, measured: Package) -> None:
    folder = written()
    for name in (
        "Dockerfile",
        "requirements.txt",
        "compose.yaml",
        "README.md",
        "RUNBOOK.md",
        "app/serve/service.py",
        "kubernetes/kustomization.yaml",
    ):
        assert (folder / name).is_file(), name
    for name in ("prometheus/prometheus.yml", "prometheus/rules.yml", "grafana/dashboard.json", "package/manifest.json"):
        assert (folder / name).is_file(), name
    record = json.loads((folder / "deploy.json").read_text())
    assert record["package"]["digest"] == measured.digest
    assert record["targets"]["requests_per_second"] == 84.35
    assert record["capacity"]["requests_per_second"] == 120.5
    assert load_package(folder / "package").digest == measured.digest
    assert (folder / "package" / "measurements").is_dir()
    readme = (folder / "README.md").read_text()
    assert "120.5 requests/s within 80.0 ms" in readme
    assert "was not built" in readme


def test_what_was_not_written_by_fmx_is_never_replaced(plan_of: PlanOf, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for force in (False, True):
        with pytest.raises(UsageError, match="not of fmx deploy's making"):
            write_folder(plan_of(), tmp_path / "mine", force=force)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        write_folder(plan_of(), tmp_path / "file", force=True)


def test_empty_folder_is_taken_and_a_full_one_only_by_force_which_keeps_its_keys(plan_of: PlanOf, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write_folder(plan_of(), target)
    with pytest.raises(UsageError, match="not empty"):
        write_folder(plan_of(), target)
    (target / "keys").mkdir()
    (target / "keys" / "keys.json").write_text("{}")
    (target / "kubernetes" / "old.yaml").write_text("")
    write_folder(plan_of(autoscaler="keda"), target, force=True)
    assert (target / "keys" / "keys.json").read_text() == "{}"
    assert not (target / "kubernetes" / "old.yaml").exists()
    assert (target / "kubernetes" / "keda.yaml").is_file()


def test_strict_umask_closes_nothing_to_the_containers(plan_of: PlanOf, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_folder(plan_of(), tmp_path / "out")
    finally:
        os.umask(before)
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        assert path.stat().st_mode & 0o004, path


def test_empty_folder_that_one_stands_in_is_taken(plan_of: PlanOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    write_folder(plan_of(), Path())
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "out" / "Dockerfile").is_file()


def test_folder_and_package_may_not_lie_in_each_other(measured: Package, plan_of: PlanOf) -> None:
    """A folder in a package would be a file that its manifest does not know."""
    for target in (measured.folder, measured.folder / "deploy", measured.folder.parent):
        with pytest.raises(UsageError, match="in each other"):
            check_target(target, measured.folder, force=True)
    load_package(measured.folder)


def test_package_that_was_altered_meanwhile_leaves_nothing(plan_of: PlanOf, unmeasured: Package, tmp_path: Path) -> None:
    plan = plan_of(unmeasured, autoscaler="none")
    file = unmeasured.folder / "reference.json"
    before = file.read_bytes()
    file.write_bytes(before + b" ")
    try:
        with pytest.raises(PackageError, match=r"reference\.json"):
            write_folder(plan, tmp_path / "out")
    finally:
        file.write_bytes(before)
    assert list(tmp_path.iterdir()) == []
