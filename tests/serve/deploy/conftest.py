"""A real package with a capacity that is easy to reckon with, and folders written for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fmx.package import Package, load_package
from serve.deploy.folder import write_folder
from serve.deploy.plan import Plan, plan_deployment, read_options
from serve.scaling.capacity import Capacity, keep_capacity
from serve.settings import load_settings

DEFAULTS: dict[str, Any] = {
    "name": "digits",
    "namespace": "vision",
    "image": None,
    "device": "cpu",
    "workers": None,
    "autoscaler": "hpa",
    "least": 2,
    "most": 10,
    "headroom": 0.7,
    "prometheus": "http://prometheus.monitoring:9090",
    "redis": False,
    "model_days": 180,
}

PlanOf = Callable[..., Plan]
Written = Callable[..., Path]


def a_capacity(package: Package, **changes: Any) -> Capacity:
    """120 requests a second within 80 ms, with two workers of two threads."""
    found = Capacity(
        requests_per_second=120.5,
        slo_p99_ms=80.0,
        p99_ms=71.0,
        mean_ms=50.0,
        most_in_closed_loop=160.0,
        package_digest=package.digest,
        variant=package.manifest.variants[0].name,
        workers=2,
        threads=2,
        machine={"cpu": "a CPU"},
        date="2026-01-01T00:00:00Z",
    )
    return replace(found, **changes)


@pytest.fixture(scope="session")
def unmeasured(light_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("unmeasured") / light_package.name
    shutil.copytree(light_package.folder, folder)
    return load_package(folder)


@pytest.fixture(scope="session")
def measured(light_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("measured") / light_package.name
    shutil.copytree(light_package.folder, folder)
    package = load_package(folder)
    keep_capacity(package, a_capacity(package))
    return package


@pytest.fixture
def plan_of(measured: Package) -> PlanOf:
    """Plan with the defaults, some of them changed: `plan_of(autoscaler="keda")`."""

    def plan(package: Package | None = None, **changes: Any) -> Plan:
        return plan_deployment(package or measured, load_settings(), read_options(**{**DEFAULTS, **changes}))

    return plan


@pytest.fixture
def written(plan_of: PlanOf, tmp_path: Path) -> Written:
    """Write a folder with the defaults, some of them changed."""

    def write(package: Package | None = None, **changes: Any) -> Path:
        target = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        write_folder(plan_of(package, **changes), target)
        return target

    return write
