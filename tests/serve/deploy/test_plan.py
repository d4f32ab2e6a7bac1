from __future__ import annotations

import pytest

from fmx.errors import PackageError, UsageError
from fmx.package import Package
from serve.deploy.plan import read_options
from serve.metrics import SECONDS
from tests.serve.deploy.conftest import DEFAULTS, PlanOf


def test_every_number_follows_from_the_measured_capacity(plan_of: PlanOf) -> None:
    plan = plan_of()
    assert plan.targets is not None
    assert (plan.targets.requests_per_second, plan.targets.concurrency, plan.targets.hard_limit) == (84.35, 4, 512)
    assert (plan.workers, plan.threads, plan.cpus) == (2, 2, 4)
    assert plan.queue_target == 4  # 120.5 a second for 40 ms
    assert plan.latency_objective_s == 0.1
    assert plan.latency_objective_s in SECONDS
    assert plan.grace_seconds == 5 + 30 + 5
    request, limit = plan.memory_bytes
    assert limit > request + 2 * plan.settings.bodies_bytes
    assert plan.variables == {"FMX_DEVICE": "cpu", "FMX_WORKERS": "2", "FMX_THREADS": "2"}
    assert plan.image == f"digits:{plan.package.manifest.version}"


def test_settings_that_shape_a_replica_are_carried_and_computed_with(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FMX_DRAIN_SECONDS": "12.5", "FMX_TIMEOUT_SECONDS": "60", "FMX_QUEUE_ROWS": "64", "FMX_LOG_FORMAT": "text"}.items():
        monkeypatch.setenv(name, value)
    plan = plan_of()
    assert plan.targets is not None
    assert (plan.grace_seconds, plan.targets.hard_limit) == (78, 128)
    assert {"FMX_DRAIN_SECONDS": "12.5", "FMX_TIMEOUT_SECONDS": "60", "FMX_QUEUE_ROWS": "64"}.items() <= plan.variables.items()
    assert "FMX_LOG_FORMAT" not in plan.variables


def test_capacity_that_was_not_measured_is_asked_for_unless_no_autoscaler_is_wanted(plan_of: PlanOf, unmeasured: Package) -> None:
    with pytest.raises(PackageError) as caught:
        plan_of(unmeasured)
    assert f"fmx capacity {unmeasured.name} --slo-p99 100" in caught.value.hint
    plan = plan_of(unmeasured, autoscaler="none", workers=3)
    assert (plan.capacity, plan.targets, plan.queue_target, plan.latency_objective_s, plan.workers) == (None, None, None, None, 3)
    with pytest.raises(PackageError, match="with 3 workers") as other:
        plan_of(workers=3)
    assert "--workers 3" in other.value.hint


def test_threads_other_than_the_measured_ones_are_refused(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_THREADS", "8")
    with pytest.raises(PackageError, match="measured with 2 threads, and FMX_THREADS is 8"):
        plan_of()


def test_every_wrong_option_is_named_at_once() -> None:
    wrong = {"name": "Digits!", "namespace": "-x", "image": "a b", "device": "tpu", "autoscaler": "magic", "least": 5, "most": 2, "prometheus": "x"}
    with pytest.raises(UsageError) as caught:
        read_options(**{**DEFAULTS, **wrong})
    for option in ("--name", "--namespace", "--image", "--device", "--autoscaler", "--max", "--prometheus"):
        assert option in caught.value.message
