from __future__ import annotations

from pathlib import Path

import pytest

from fmx.cli.autoscale import read_trace
from fmx.errors import DataError
from serve.scaling.simulation import Outcome, Replica, Rule, simulate
from serve.scaling.targets import targets_of


def test_targets_follow_from_capacity_by_littles_law() -> None:
    targets = targets_of(120.0, 0.05, 256, workers=2)
    assert (targets.requests_per_second, targets.concurrency, targets.hard_limit) == (84.0, 4, 512)
    assert [targets.replicas(offered) for offered in (0.0, 84.0, 84.5, 1000.0)] == [1, 1, 2, 12]
    slow = targets_of(0.5, 3.0, 8)
    assert (slow.requests_per_second, slow.concurrency, slow.replicas(10.0)) == (0.35, 1, 29)


REPLICA = Replica(capacity=100.0, most=140.0, target=70.0)


def outcomes(trace: list[float], start_seconds: float = 60.0) -> dict[Rule, Outcome]:
    rules: tuple[Rule, ...] = ("capacity", "cpu")
    return {rule: simulate(trace, REPLICA, rule, start_seconds=start_seconds, least=2, most=20) for rule in rules}


def test_steady_load_keeps_its_replicas_and_its_objective() -> None:
    found = simulate([210.0] * 240, REPLICA, "capacity", start_seconds=60, least=3, most=20)
    assert found.within_objective == 1.0
    assert found.most_replicas == 3
    assert found.replica_hours == pytest.approx(3.0)


def test_scaling_on_the_capacity_keeps_the_objective_better_than_cpu_percentage() -> None:
    """kserve#4259, #2156: what to scale on. CPU is 70 % busy at 98 requests a second, where the objective is nearly lost: the rule comes late."""
    trace = [100.0 + 6 * step for step in range(120)] + [820.0] * 60 + [100.0] * 120
    found = outcomes(trace)
    assert found["capacity"].within_objective > found["cpu"].within_objective
    assert found["capacity"].within_objective > 0.99


def test_replicas_that_start_slowly_cost_a_surge_its_objective() -> None:
    trace = [100.0] * 40 + [900.0] * 80
    quick, slow = (outcomes(trace, seconds)["capacity"] for seconds in (0.0, 240.0))
    assert quick.within_objective > slow.within_objective


def test_replicas_go_when_the_load_goes_but_not_at_once() -> None:
    surge = [900.0] * 40
    long, short = ([*surge, *([50.0] * quiet)] for quiet in (400, 10))
    ended = simulate(long, REPLICA, "capacity", start_seconds=30, least=2, most=20)
    assert ended.replica_hours < 0.5 * len(long) * 15 / 3600 * ended.most_replicas
    kept = simulate(short, REPLICA, "capacity", start_seconds=30, least=2, most=20)
    assert kept.replica_hours > 0.7 * len(short) * 15 / 3600 * kept.most_replicas


def test_fewer_wanted_replicas_cost_the_newest_ones_that_start() -> None:
    trace = [350.0] * 20 + [1400.0] * 4 + [1330.0] * 60
    slow = simulate(trace, REPLICA, "capacity", start_seconds=400, least=5, most=20)
    assert slow.most_replicas == 20
    assert slow.within_objective > 0.5


def test_no_traffic_is_no_fault() -> None:
    assert simulate([0.0] * 10, REPLICA, "cpu", start_seconds=30, least=1, most=5).within_objective == 1.0


def test_trace_is_read_with_or_without_heads(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("seconds,rate\n0,10\n15,20.5\n\n30,0\n")
    assert read_trace(file) == [10.0, 20.5, 0.0]
    file.write_text("7\n8\n")
    assert read_trace(file) == [7.0, 8.0]


@pytest.mark.parametrize("content", ["", "rate\n", "1\nx\n", "1\n-3\n", "1\nnan\n", "1\ninf\n"])
def test_trace_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "trace.csv").write_text(content)
    with pytest.raises(DataError):
        read_trace(tmp_path / "trace.csv")
