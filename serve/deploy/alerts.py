"""The alerts. What each means at three in the morning is in runbook.py.

Availability and latency are alerted on by burn rate over two windows at once (Google's SRE workbook, chapter 5): a long one that says it
matters, a short one that says it still goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from serve.deploy.plan import Plan
from serve.deploy.rules import grouping, recorded, recording_rules, selector

AVAILABILITY, LATENCY_SHARE = 0.999, 0.99
"""Objectives over 30 days: the share of callers' requests that do not end in 5xx, and of predictions within the latency objective."""
SHED_RATIO, BUSY_RATIO = 0.05, 0.95
KEY_DAYS, CERTIFICATE_DAYS, CERTIFICATE_LAST_DAYS = 14, 21, 3

Severity = Literal["page", "ticket"]


@dataclass(frozen=True)
class Burn:
    """A pair of windows, and the rate of burning above which it fires."""

    factor: float
    long: str
    short: str
    hold: str
    severity: Severity


BURNS = (
    Burn(14.4, "1h", "5m", "2m", "page"),
    Burn(6, "6h", "30m", "15m", "page"),
    Burn(1, "3d", "6h", "1h", "ticket"),
)


@dataclass(frozen=True)
class Alert:
    """A rule. Those of one name share a heading in the runbook."""

    name: str
    expression: str
    hold: str
    severity: Severity
    summary: str
    description: str
    labels: tuple[tuple[str, str], ...] = ()


def alerts(plan: Plan, *, in_kubernetes: bool) -> list[Alert]:
    """Give the alerts of a deployment; those that need a capacity or Redis only where there is one."""

    def of(metric: str) -> str:
        return metric + selector(plan, in_kubernetes=in_kubernetes)

    def by(*labels: str) -> str:
        return f"by ({grouping(*labels, in_kubernetes=in_kubernetes)})"

    def burning(name: str, ratio: str, budget: float, what: str, objective: str) -> list[Alert]:
        return _burning(name, lambda window: recorded(f"{ratio}:ratio_rate{window}", plan, in_kubernetes=in_kubernetes), budget, what, objective)

    found = [*burning("FmxErrorBudgetBurn", "fmx_errors", 1 - AVAILABILITY, "requests fail", f"{100 * AVAILABILITY:g} % of requests without 5xx")]
    if plan.latency_objective_s is not None:
        objective = f"{100 * LATENCY_SHARE:g} % of predictions within {1000 * plan.latency_objective_s:g} ms"
        found += burning("FmxLatencyBudgetBurn", "fmx_slow", 1 - LATENCY_SHARE, "predictions are slow", objective)
        busy = f"{recorded('fmx_utilisation:ratio_rate5m', plan, in_kubernetes=in_kubernetes)} > {BUSY_RATIO}"
        told = "Replicas are offered {{ $value | humanizePercentage }} of the capacity that was measured."
        found.append(Alert("FmxNearCapacity", busy, "15m", "ticket", "{{ $labels.job }} is near its capacity.", told))
    found += [
        Alert(
            "FmxRefuses",
            f"{recorded('fmx_shed:ratio_rate5m', plan, in_kubernetes=in_kubernetes)} > {SHED_RATIO}",
            "5m",
            "page",
            "{{ $labels.job }} refuses callers for want of capacity.",
            "{{ $value | humanizePercentage }} of the offered requests are answered 429 or 504.",
        ),
        Alert(
            "FmxDown",
            f"{of('up')} == 0",
            "2m",
            "page",
            "{{ $labels.instance }} of {{ $labels.job }} cannot be scraped.",
            "It answers no scrape: it is gone, hangs, or cannot be reached.",
        ),
        Alert(
            "FmxGone",
            f"absent({of('up')})",
            "5m",
            "page",
            "There is no replica of {{ $labels.job }}.",
            "Prometheus knows no target of this job, running or not.",
        ),
        Alert(
            "FmxNotReady",
            f"{of('fmx_ready_workers')} == 0",
            "2m",
            "page",
            "{{ $labels.instance }} of {{ $labels.job }} is not ready.",
            "The process lives and no worker of it has a package open.",
        ),
        Alert(
            "FmxWorkerLost",
            f"{of('fmx_workers_alive')} < {of('fmx_workers_wanted')}",
            "2m",
            "page",
            "{{ $labels.instance }} of {{ $labels.job }} has lost a worker.",
            "{{ $value }} workers are alive, fewer than FMX_WORKERS: none came in its place, and the others are not ready without it.",
        ),
        Alert(
            "FmxDrift",
            f"max {by('feature')} ({of('fmx_drift_alarm')}) == 1",
            "30m",
            "ticket",
            "The {{ $labels.feature }} of what {{ $labels.job }} is sent has drifted.",
            "It is far from the package's reference, and further than chance: the accuracy that was measured may not hold.",
        ),
        Alert(
            "FmxModelOld",
            f"time() - max {by()} ({of('fmx_model_created_timestamp_seconds')}) > {plan.options.model_days} * 86400",
            "1h",
            "ticket",
            "The model of {{ $labels.job }} is old.",
            f"It was exported {{{{ $value | humanizeDuration }}}} ago; {plan.options.model_days} days were agreed.",
        ),
        Alert(
            "FmxKeyExpires",
            f"0 < max {by('key')} ({of('fmx_key_expires_timestamp_seconds')}) - time() < {KEY_DAYS} * 86400",
            "0s",
            "ticket",
            "The key {{ $labels.key }} of {{ $labels.job }} ends soon.",
            "It ends in {{ $value | humanizeDuration }}; then its callers get 401.",
        ),
        *(
            Alert(
                "FmxCertificateExpires",
                f"min {by()} ({of('fmx_certificate_expires_timestamp_seconds')}) - time() < {days} * 86400",
                "1h",
                severity,
                "The TLS certificate of {{ $labels.job }} ends soon.",
                "It ends in {{ $value | humanizeDuration }}; then no client connects.",
            )
            for days, severity in _CERTIFICATE
        ),
        Alert(
            "FmxAuditLost",
            f"increase({of('fmx_audit_lost_total')}[15m]) > 0",
            "0s",
            "page",
            "{{ $labels.instance }} of {{ $labels.job }} could not write its audit log.",
            "{{ $value | humanize }} requests of the last 15 minutes are not in it.",
        ),
    ]
    if plan.options.redis:
        shared = f"min {by()} ({of('fmx_limits_shared')}) == 0"
        told = "Redis does not answer, so each worker counts alone: callers may get more than their rate or quota."
        found.append(Alert("FmxLimitsNotShared", shared, "5m", "ticket", "{{ $labels.job }} counts limits in each worker.", told))
    return found


_CERTIFICATE: tuple[tuple[int, Severity], ...] = ((CERTIFICATE_DAYS, "ticket"), (CERTIFICATE_LAST_DAYS, "page"))


def _burning(name: str, ratio: Callable[[str], str], budget: float, what: str, objective: str) -> list[Alert]:
    found = []
    for burn in BURNS:
        bound = f"{burn.factor * budget:.6g}"
        expression = f"{ratio(burn.long)} > {bound} and {ratio(burn.short)} > {bound}"
        summary = f"{{{{ $labels.job }}}}: too many {what}."
        told = (
            f"{{{{ $value | humanizePercentage }}}} over {burn.long}, more than {burn.factor:g} times what {objective} over 30 days leaves room for."
        )
        found.append(Alert(name, expression, burn.hold, burn.severity, summary, told, (("long", burn.long), ("short", burn.short))))
    return found


def rule_groups(plan: Plan, *, in_kubernetes: bool) -> list[dict[str, Any]]:
    """Give the groups of a rules file, or of a PrometheusRule."""
    return [
        {"name": f"{plan.name}.records", "rules": recording_rules(plan, in_kubernetes=in_kubernetes)},
        {"name": f"{plan.name}.alerts", "rules": [_rule(alert) for alert in alerts(plan, in_kubernetes=in_kubernetes)]},
    ]


def _rule(alert: Alert) -> dict[str, Any]:
    hold = {} if alert.hold == "0s" else {"for": alert.hold}
    said = {"summary": alert.summary, "description": alert.description, "runbook": f"RUNBOOK.md#{alert.name.lower()}"}
    return {"alert": alert.name, "expr": alert.expression, **hold, "labels": {"severity": alert.severity, **dict(alert.labels)}, "annotations": said}
