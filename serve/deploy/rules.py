"""Recording rules: rates, ratios and quantiles that alerts and the dashboard ask for, each over one deployment."""

from __future__ import annotations

from typing import Any

from serve.deploy.plan import Plan
from serve.routes import EMBED, PREDICT, PROBES

WINDOWS = ("5m", "30m", "1h", "6h", "3d")
"""Of the burn rates."""
CALLERS = f'route!~"{"|".join(sorted(PROBES))}|unknown"'
"""Requests of callers: probes, scrapes and strangers' paths are nobody's experience."""
PREDICTIONS = f'route=~"{PREDICT}|{EMBED}|/v2/models/.+/infer"'
OVERLOADED = 'reason=~"overloaded|deadline"'
"""What is refused for want of capacity; the other reasons are the caller's own."""


def selector(plan: Plan, *more: str, in_kubernetes: bool) -> str:
    """Write the label matchers of one deployment's series."""
    own = [f'namespace="{plan.options.namespace}"'] if in_kubernetes else []
    return "{" + ",".join([*own, f'job="{plan.name}"', *more]) + "}"


def grouping(*more: str, in_kubernetes: bool) -> str:
    """Write what series are summed by: one Prometheus may scrape the same name in several namespaces."""
    return ", ".join([*(["namespace"] if in_kubernetes else []), "job", *more])


def recorded(name: str, plan: Plan, *, in_kubernetes: bool) -> str:
    """Write a recorded series of this deployment alone."""
    return f"job:{name}{selector(plan, in_kubernetes=in_kubernetes)}"


def recording_rules(plan: Plan, *, in_kubernetes: bool) -> list[dict[str, Any]]:
    """Give the recording rules of a deployment."""

    def rate(metric: str, window: str, *more: str, by: tuple[str, ...] = ()) -> str:
        return f"sum by ({grouping(*by, in_kubernetes=in_kubernetes)}) (rate({metric}{selector(plan, *more, in_kubernetes=in_kubernetes)}[{window}]))"

    def one(name: str, expression: str) -> dict[str, Any]:
        return {"record": f"job:{name}", "expr": expression}

    rules = [
        one("fmx_requests:rate5m", rate("fmx_requests_total", "5m", CALLERS)),
        one("fmx_requests_offered:rate5m", rate("fmx_requests_offered_total", "5m")),
    ]
    for window in WINDOWS:
        every, failed = rate("fmx_requests_total", window, CALLERS), rate("fmx_requests_total", window, CALLERS, 'status=~"5.."')
        rules.append(one(f"fmx_errors:ratio_rate{window}", f"({failed} or 0 * {every}) / {every}"))
    rules += [
        one("fmx_request_seconds:p99_5m", f"histogram_quantile(0.99, {rate('fmx_request_seconds_bucket', '5m', PREDICTIONS, by=('le',))})"),
        one("fmx_shed:ratio_rate5m", f"{rate('fmx_shed_total', '5m', OVERLOADED)} / {rate('fmx_requests_offered_total', '5m')}"),
    ]
    if plan.latency_objective_s is None:
        return rules
    edge = f'le="{plan.latency_objective_s!r}"'
    for window in WINDOWS:
        held, every = rate("fmx_request_seconds_bucket", window, PREDICTIONS, edge), rate("fmx_request_seconds_count", window, PREDICTIONS)
        rules.append(one(f"fmx_slow:ratio_rate{window}", f"1 - {held} / {every}"))
    capacity = f"sum by ({grouping(in_kubernetes=in_kubernetes)}) (fmx_capacity_requests_per_second{selector(plan, in_kubernetes=in_kubernetes)} > 0)"
    rules.append(one("fmx_utilisation:ratio_rate5m", f"{rate('fmx_requests_offered_total', '5m')} / {capacity}"))
    return rules
