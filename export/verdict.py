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
    """Whether a variant may be the default, and the sentence for the report."""

    accepted: bool
    why: str


def judge_variant(
    measured: Measured, latency: tuple[Latency, ...], fp32: tuple[Latency, ...], size_bytes: int, settings: ExportSettings, device: str = "cpu"
) -> Verdict:
    """Judge a variant that is to be faster than fp32.

    Args:
        measured: on the test rows.
        latency: empty where this host is not of the variant's kind.
        fp32: of the fp32 graph of the same package.
        size_bytes: of its file.
        settings: hold the budget. The point estimate of the drop decides, or with `--accept strict` the upper end of its interval.
        device: where the variant runs.
    """
    missed = _too_inaccurate(measured, settings) or _too_large_or_slow(latency, size_bytes, settings)
    if missed:
        return Verdict(False, missed)
    loss = f"{measured.drop:.2f} points of {_what(measured)}" if measured.drop > 0 else f"no {_what(measured)}"
    lost = f"It loses {loss} (at most {settings.max_drop:g} allowed)"
    if not latency:
        place = "a GPU" if device == "cuda" else "a host of its kind"
        return Verdict(True, f"{lost}; how fast it is was not measured, which takes {place}.{_remark(measured, settings)}")
    at, other = _at(latency, settings), _at(fp32, settings)
    faster = other.median_ms / at.median_ms
    if faster <= 1.0:
        return Verdict(False, f"It is not faster than fp32 on this CPU ({faster:.2f} times at batch {at.batch}).")
    speed = f"{at.speed_up:.2f} times as fast as fp32" + (" before pruning" if other.speed_up != 1.0 else "")
    return Verdict(True, f"{lost} and is {speed} at batch {at.batch}.{_remark(measured, settings)}")


def judge_reference(measured: Measured, latency: tuple[Latency, ...], size_bytes: int, settings: ExportSettings, *, pruned: bool) -> Verdict:
    """Judge the fp32 graph, which any CPU can run: by size and latency, and where it was pruned also by its drop and by being faster."""
    missed = (_too_inaccurate(measured, settings) if pruned else "") or _too_large_or_slow(latency, size_bytes, settings)
    if missed:
        return Verdict(False, missed)
    if pruned:
        at = _at(latency, settings)
        if at.speed_up <= 1.0:
            return Verdict(False, f"Pruning did not make it faster ({at.speed_up:.2f} times at batch {at.batch}).")
        return Verdict(
            True, f"The pruned network: {measured.drop:.2f} points below the dense one, {at.speed_up:.2f} times as fast at batch {at.batch}."
        )
    return Verdict(True, "The reference, and what any CPU can run.")


def _what(measured: Measured) -> str:
    return measured.judged


def _units(measured: Measured) -> str:
    return "units of texts" if measured.judged == "the entities' F1" else "rows"


def _too_inaccurate(measured: Measured, settings: ExportSettings) -> str:
    if measured.drop > settings.max_drop:
        return f"It loses {measured.drop:.2f} points of {_what(measured)}, more than the {settings.max_drop:g} that are allowed."
    if settings.accept == "strict" and measured.comparison.drop_high > settings.max_drop:
        return (
            f"It loses {measured.drop:.2f} points, but {measured.accuracy.n} {_units(measured)} cannot rule out {measured.comparison.drop_high:.2f}, "
            f"more than the {settings.max_drop:g} that are allowed (--accept strict)."
        )
    return ""


def _too_large_or_slow(latency: tuple[Latency, ...], size_bytes: int, settings: ExportSettings) -> str:
    if settings.max_size is not None and size_bytes > settings.max_size * 1e6:
        return f"It has {size_bytes / 1e6:.2f} MB, more than the {settings.max_size:g} that are allowed."
    if settings.target_latency is not None and not latency:
        return f"Whether it keeps {settings.target_latency:g} ms cannot be measured here, which takes a host of its kind."
    if settings.target_latency is not None and _at(latency, settings).median_ms > settings.target_latency:
        at = _at(latency, settings)
        return f"It takes {at.median_ms:.2f} ms at batch {at.batch}, more than the {settings.target_latency:g} that are allowed."
    return ""


def _at(latency: tuple[Latency, ...], settings: ExportSettings) -> Latency:
    return next(item for item in latency if item.batch == settings.batch)


def _remark(measured: Measured, settings: ExportSettings) -> str:
    width = measured.comparison.drop_high - measured.comparison.drop_low
    if width > FEW_ROWS_POINTS * settings.max_drop:
        rows = f"{measured.accuracy.n} {_units(measured)}"
        return f" {rows} give the drop a 95 % interval of {width:.1f} points, too wide to be sure of so small a budget."
    return ""


def refuse_or_go_on(verdicts: dict[str, Verdict], settings: ExportSettings) -> None:
    """Raise `BudgetError` unless what was asked for was reached.

    `--on-miss fp32` is content with fp32 whatever it misses, `--quantize auto` with any variant that holds the budget; otherwise every variant
    that was asked for must.
    """
    refused = {name: verdict for name, verdict in verdicts.items() if not verdict.accepted}
    asked = [name for name in refused if name != "fp32"]
    if settings.on_miss == "fp32":
        return
    if len(refused) == len(verdicts) or (asked and settings.quantize != "auto"):
        name = asked[0] if asked else "fp32"
        hint = "Allow more with --max-drop, --target-latency or --max-size, or take an fp32 package with --on-miss fp32."
        raise BudgetError(f"{name} is not worth it here. {refused[name].why} Nothing was written.", hint=hint)
