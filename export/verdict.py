"""Which variant goes first, and why each stands where it stands, in one sentence a variant."""

from __future__ import annotations

from dataclasses import dataclass

from export.measure import Measured
from export.settings import ExportSettings
from fmx.contract import Latency
from fmx.errors import BudgetError

FEW_ROWS_POINTS = 2.0
"""When the 95 % interval is wider than the budget by this factor, a remark says that the rows cannot support it."""


@dataclass(frozen=True)
class Verdict:
    """Whether int8 may go before fp32, and the sentence for the report."""

    accepted: bool
    why: str


def judge_int8(measured: Measured, latency: tuple[Latency, ...], settings: ExportSettings) -> Verdict:
    """Judge int8 by its drop (the point estimate decides) and by its median latency at the batch that was asked for."""
    at = next(item for item in latency if item.batch == settings.batch)
    if measured.drop > settings.max_drop:
        return Verdict(False, f"It loses {measured.drop:.2f} points of accuracy, more than the {settings.max_drop:g} that are allowed.")
    if at.speed_up <= 1.0:
        return Verdict(False, f"It is not faster than fp32 on this CPU ({at.speed_up:.2f} times at batch {at.batch}).")
    loss = f"{measured.drop:.2f} points of accuracy" if measured.drop > 0 else "no accuracy"
    return Verdict(
        True,
        f"It loses {loss} (at most {settings.max_drop:g} allowed) and is {at.speed_up:.2f} times as fast as fp32 "
        f"at batch {at.batch}.{_remark(measured, settings)}",
    )


def _remark(measured: Measured, settings: ExportSettings) -> str:
    width = 100.0 * (measured.accuracy.high - measured.accuracy.low)
    if width > FEW_ROWS_POINTS * settings.max_drop:
        return f" {measured.accuracy.n} rows give a 95 % interval of {width:.1f} points, too wide to be sure of so small a budget."
    return ""


def refuse_or_go_on(verdict: Verdict, settings: ExportSettings) -> None:
    """Raise `BudgetError` for a variant that was not accepted, unless an fp32 package was asked for in that case."""
    if not verdict.accepted and settings.on_miss == "fail":
        raise BudgetError(
            f"int8 is not worth it here. {verdict.why} Nothing was written.",
            hint="Allow more with --max-drop, or take an fp32 package with --on-miss fp32.",
        )
