from __future__ import annotations

import numpy as np
import pytest

from export.measure import Measured, measure_answers
from export.settings import check_settings
from export.verdict import Verdict, judge_reference, judge_variant, refuse_or_go_on
from fmx.contract import Fingerprint, Latency
from fmx.data.rows import Rows
from fmx.errors import BudgetError, UsageError


def measured(lost: int, n: int = 1000) -> Measured:
    """A variant that answers `lost` of n rows wrongly that the eager model answers rightly; both are wrong on the last twentieth."""
    labels = np.zeros(n, np.int64)
    eager = np.eye(2)[np.where(np.arange(n) < 0.95 * n, 0, 1)]
    answers = eager.copy()
    answers[:lost] = [0.0, 1.0]
    rows = Rows(np.zeros((n, 1, 1, 3), np.uint8), labels, ("",) * n, (), Fingerprint(rows=n, sha256="0" * 64))
    return measure_answers(answers, eager, rows, ("yes", "no"), (1,))


def timed(speed_up: float, median_ms: float | None = None) -> tuple[Latency, ...]:
    return (Latency(batch=1, threads=2, median_ms=median_ms or 10 / speed_up, minimum_ms=0.9, speed_up=speed_up),)


FP32 = timed(1.0)


def test_answers_are_compared_row_by_row() -> None:
    found = measured(20)
    assert found.drop == 2.0
    assert found.parity.top1_agreement == 0.98
    comparison = found.comparison
    assert comparison.changed == 0.02
    assert comparison.drop_low < 2.0 < comparison.drop_high
    assert comparison.drop_high < 3.1
    assert comparison.p_value < 1e-4
    assert (comparison.worst_class, comparison.worst_class_drop, comparison.worst_class_rows) == ("yes", 2.0, 1000)


def test_int8_is_judged_by_drop_and_by_speed_onnxruntime_17389() -> None:
    """onnxruntime#17389, #20052, #12854: int8 that was slower than fp32 was called a success."""
    settings = check_settings({"quantize": "int8", "max_drop": 0.5})
    assert judge_variant(measured(5), timed(2.0), FP32, 1, settings).accepted
    missed = judge_variant(measured(6), timed(2.0), FP32, 1, settings)
    assert not missed.accepted
    assert "0.60 points" in missed.why
    slow = judge_variant(measured(0), timed(0.9), FP32, 1, settings)
    assert not slow.accepted
    assert "not faster" in slow.why


def test_strict_acceptance_asks_the_interval() -> None:
    point, strict = (check_settings({"quantize": "int8", "max_drop": 0.5, "accept": accept}) for accept in ("point", "strict"))
    assert judge_variant(measured(0, 100), timed(2.0), FP32, 1, point).accepted
    assert not judge_variant(measured(0, 100), timed(2.0), FP32, 1, strict).accepted
    assert judge_variant(measured(0, 10_000), timed(2.0), FP32, 1, strict).accepted


def test_size_and_latency_are_budgets_too() -> None:
    settings = check_settings({"quantize": "int8", "max_size": 2, "target_latency": 5})
    assert judge_variant(measured(0), timed(2.0, 4.0), FP32, 2_000_000, settings).accepted
    assert "MB" in judge_variant(measured(0), timed(2.0, 4.0), FP32, 2_000_001, settings).why
    assert "5.10 ms" in judge_variant(measured(0), timed(2.0, 5.1), FP32, 1, settings).why
    assert not judge_reference(measured(0), timed(1.0, 5.1), 1, settings, pruned=False).accepted
    assert "cannot be measured here" in judge_variant(measured(0), (), FP32, 1, settings).why


def test_strict_budget_is_not_held_against_the_reference_itself() -> None:
    settings = check_settings({"quantize": "int8", "max_drop": 0.5, "accept": "strict"})
    assert judge_reference(measured(0, 100), timed(1.0), 1, settings, pruned=False).accepted
    assert not judge_reference(measured(0, 100), timed(2.0), 1, settings, pruned=True).accepted


def test_unmeasured_speed_is_said_and_not_assumed() -> None:
    verdict = judge_variant(measured(0), (), FP32, 1, check_settings({"quantize": "fp16"}), "cuda")
    assert verdict.accepted
    assert "was not measured" in verdict.why
    assert "as fast" not in verdict.why


def test_few_rows_are_remarked_on() -> None:
    settings = check_settings({"quantize": "int8", "max_drop": 0.5})
    assert "too wide" in judge_variant(measured(0, 100), timed(2.0), FP32, 1, settings).why
    assert "too wide" not in judge_variant(measured(0, 100_000), timed(2.0), FP32, 1, settings).why


GOOD, BAD = Verdict(True, "It is good."), Verdict(False, "It loses 1.00 points.")


@pytest.mark.parametrize(
    ("verdicts", "options", "passes"),
    [
        ({"fp32": GOOD, "int8": GOOD}, {}, True),
        ({"fp32": GOOD, "int8": BAD}, {}, False),
        ({"fp32": GOOD, "int8": BAD}, {"on_miss": "fp32"}, True),
        ({"fp32": GOOD, "int8": BAD}, {"quantize": "auto"}, True),
        ({"fp32": BAD, "int8": BAD}, {"quantize": "auto"}, False),
        ({"fp32": BAD, "int8": BAD}, {"on_miss": "fp32"}, True),
        ({"fp32": BAD, "int8": GOOD}, {}, True),
        ({"fp32": GOOD, "int8": GOOD, "int8-generic": BAD}, {}, False),
    ],
)
def test_exit_is_refused_unless_what_was_asked_for_was_reached(verdicts: dict[str, Verdict], options: dict[str, str], passes: bool) -> None:
    settings = check_settings({"quantize": "int8", **options})
    if passes:
        refuse_or_go_on(verdicts, settings)
    else:
        with pytest.raises(BudgetError, match=r"1\.00 points") as caught:
            refuse_or_go_on(verdicts, settings)
        assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": "int9"},
        {"max_drop": -1},
        {"opset": 11},
        {"on_miss": "maybe"},
        {"quantise": "int8"},
        {"quantize": "int8", "target": "cuda"},
        {"quantize": "fp16", "target": "vnni"},
        {"quantize": "int8", "target": "vnni,sparc"},
        {"target": "generic"},
        {"target_latency": 0},
        {"time_budget": 5},
        {"calibration_rows": 64},
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        check_settings(options)


def test_targets_are_joined_by_commas() -> None:
    assert check_settings({"quantize": "int8", "target": "vnni, generic"}).target == ("vnni", "generic")


def test_pruning_that_is_not_faster_is_no_success_torch_pruning_149() -> None:
    """Torch-Pruning#149, #33: fewer multiplications, and no less time. Time is what is judged."""
    settings = check_settings({"prune": 0.3})
    assert judge_reference(measured(0), timed(1.4), 1, settings, pruned=True).accepted
    slow = judge_reference(measured(0), timed(0.97), 1, settings, pruned=True)
    assert not slow.accepted
    assert "did not make it faster" in slow.why
