"""`fmx capacity` against a replica that it starts, and against a running service."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest

from fmx.data import open_source
from fmx.package import Package, load_package
from tests.e2e.conftest import runner, serving


@pytest.fixture(scope="module")
def package(small_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A copy, for measurements are written into it."""
    folder = tmp_path_factory.mktemp("capacity") / "packages" / small_package.name
    shutil.copytree(small_package.folder, folder)
    return load_package(folder)


def test_capacity_is_measured_kept_and_turned_into_targets(package: Package, tmp_path: Path) -> None:
    fmx = runner(tmp_path)
    assert fmx("autoscale", "targets", str(package.folder)).returncode == 6
    done = fmx("capacity", str(package.folder), "--slo-p99", "2000", "--seconds", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests_per_second"] > 1
    assert found["p99_ms"] <= 2000
    assert found["package_digest"] == package.digest
    assert load_package(package.folder).digest == package.digest
    targets = json.loads(fmx("autoscale", "targets", str(package.folder), "--json").stdout)
    assert targets["requests_per_second"] == pytest.approx(0.7 * found["requests_per_second"], abs=0.002)
    (tmp_path / "trace.csv").write_text("\n".join(str(10 * step) for step in range(40)))
    simulated = json.loads(fmx("autoscale", "simulate", str(package.folder), "--trace", "trace.csv", "--json").stdout)
    assert set(simulated) == {"capacity", "cpu"}


def test_objective_that_nothing_holds_exits_5_and_keeps_nothing(package: Package, tmp_path: Path) -> None:
    before = sorted((package.folder / "measurements").glob("*"))
    done = runner(tmp_path)("capacity", str(package.folder), "--slo-p99", "0.1", "--seconds", "0.5")
    assert done.returncode == 5, done.stderr
    assert sorted((package.folder / "measurements").glob("*")) == before


def test_running_service_is_measured_and_says_how_it_stands(package: Package, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "digit.png").write_bytes(open_source("digits").splits["test"][0].read())
    fmx = runner(tmp_path)
    with serving(tmp_path / "home", package.folder) as server:
        done = fmx("capacity", server.url, "--slo-p99", "2000", "--seconds", "0.5", "--input", "photos", "--json", FMX_KEY=server.key)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["package_digest"] == package.digest
        standing = httpx.get(f"{server.url}/v1/autoscale", headers={"X-API-Key": server.key}).json()
        assert standing["offered_per_second"] > 1
        assert standing["suggested_replicas"] >= 1
        assert httpx.get(f"{server.url}/v1/autoscale").status_code == 401
        suggested = re.search(r"^fmx_suggested_replicas(?:\{[^}]*\})? ([0-9.]+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
        assert suggested
        assert float(suggested[1]) >= 1
        refused = fmx("capacity", server.url, "--input", "photos", FMX_KEY="wrong")
        assert refused.returncode == 7
        assert "401" in refused.stderr
    assert fmx("capacity", server.url, "--input", "photos").returncode == 7
    assert fmx("capacity", server.url).returncode == 2
