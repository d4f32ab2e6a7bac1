"""The Grafana dashboard: one JSON, importable anywhere; data source and job are variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve.deploy.plan import Plan
from serve.deploy.rules import CALLERS, PREDICTIONS

COLUMNS, WIDTH, HEIGHT = 3, 8, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    unit: str
    """Grafana's name of it."""
    queries: tuple[tuple[str, str], ...]
    """PromQL, and what its lines are called."""
    about: str = ""


def _rate(metric: str, *matchers: str, by: str = "job") -> str:
    return f"sum by ({by}) (rate({_of(metric, *matchers)}[$__rate_interval]))"


def _of(metric: str, *matchers: str) -> str:
    return metric + "{" + ",".join(['job="$job"', *matchers]) + "}"


def _quantile(share: float, metric: str, *matchers: str) -> str:
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', *matchers, by='le')})"


def _mean(metric: str) -> str:
    return f"{_rate(f'{metric}_sum')} / {_rate(f'{metric}_count')}"


_FAILED = _rate("fmx_requests_total", CALLERS, 'status=~"5.."')
_EVERY = _rate("fmx_requests_total", CALLERS)
_SHED = _rate("fmx_shed_total", by="reason")


def _quantiles(metric: str, *matchers: str, shares: tuple[float, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((_quantile(share, metric, *matchers), f"p{100 * share:g}") for share in shares)


def _workers(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"sum({_of(f'fmx_{name}')})", name.replace("_", " ")) for name in names)


PANELS = (
    Panel("Requests a second", "reqps", ((_rate("fmx_requests_total", CALLERS, by="status"), "{{status}}"),), "Callers' requests, by status."),
    Panel("Share of 5xx", "percentunit", ((f"({_FAILED} or 0 * {_EVERY}) / {_EVERY}", "5xx"),)),
    Panel(
        "Latency of predictions",
        "s",
        _quantiles("fmx_request_seconds", PREDICTIONS, shares=(0.5, 0.95, 0.99)),
    ),
    Panel("Refused a second", "reqps", ((_SHED, "{{reason}}"),), "overloaded and deadline are the service's limits, the others the caller's."),
    Panel(
        "Offered load beside capacity",
        "reqps",
        (
            (_rate("fmx_requests_offered_total"), "offered"),
            (f"sum({_of('fmx_capacity_requests_per_second')})", "capacity of the replicas"),
        ),
        "Capacity is what fmx capacity measured, times replicas.",
    ),
    Panel(
        "Utilisation",
        "percentunit",
        ((f"{_rate('fmx_requests_offered_total')} / sum by (job) ({_of('fmx_capacity_requests_per_second')} > 0)", "offered / capacity"),),
    ),
    Panel("Replicas", "short", ((f"count({_of('up')} == 1)", "scraped"), (f"sum({_of('fmx_suggested_replicas')})", "suggested"))),
    Panel(
        "Workers",
        "short",
        _workers("ready_workers", "workers_alive", "workers_wanted"),
    ),
    Panel("In flight", "short", ((f"sum by (instance) ({_of('fmx_in_flight')})", "{{instance}}"),)),
    Panel("Rows waiting", "short", ((f"sum by (instance) ({_of('fmx_queue_rows')})", "{{instance}}"),)),
    Panel("Wait in the queue", "s", _quantiles("fmx_queue_seconds", shares=(0.5, 0.99))),
    Panel("Rows that run together", "short", ((_mean("fmx_batch_rows"), "mean"), (_quantile(0.95, "fmx_batch_rows"), "p95"))),
    Panel("Where the time goes", "s", ((_mean("fmx_decode_seconds"), "decoding"), (_mean("fmx_inference_seconds"), "model, a batch"))),
    Panel("Predictions a second by label", "short", ((_rate("fmx_predictions_total", by="label"), "{{label}}"),)),
    Panel("Confidence", "percentunit", _quantiles("fmx_confidence", shares=(0.1, 0.5, 0.9))),
    Panel("Drift (PSI)", "short", ((f"max by (feature) ({_of('fmx_drift_psi')})", "{{feature}}"),), "Above 0.25 is usually called large."),
    Panel("Drift (Kolmogorov-Smirnov)", "short", ((f"max by (feature) ({_of('fmx_drift_ks')})", "{{feature}}"),)),
    Panel("Drift alarms", "short", ((f"max by (feature) ({_of('fmx_drift_alarm')})", "{{feature}}"),), "1: large, and more than chance."),
    Panel("Busy CPUs", "short", ((_rate("fmx_cpu_seconds_total", by="instance"), "{{instance}}"), (f"max({_of('fmx_cpus')})", "there are"))),
    Panel("Memory of the workers", "bytes", ((f"sum by (instance) ({_of('fmx_memory_bytes')})", "{{instance}}"),)),
    Panel("Requests a second by key", "reqps", ((_rate("fmx_key_requests_total", by="key"), "{{key}}"),)),
    Panel(
        "Days until it ends",
        "d",
        (
            (f"(max by (key) ({_of('fmx_key_expires_timestamp_seconds')}) - time()) / 86400", "key {{key}}"),
            (f"(min({_of('fmx_certificate_expires_timestamp_seconds')}) - time()) / 86400", "certificate"),
        ),
    ),
    Panel(
        "Model",
        "d",
        (
            (
                f"(time() - max by (instance) ({_of('fmx_model_created_timestamp_seconds')})) / 86400 "
                f"* on (instance) group_right max by (instance, name, variant, digest) ({_of('fmx_model_info')} == 1)",
                "{{name}} {{variant}}",
            ),
        ),
        "Days since it was exported.",
    ),
)

GPU_PANELS = (
    Panel("GPU", "percentunit", ((f"max by (instance, gpu) ({_of('fmx_gpu_utilisation_ratio')})", "{{instance}} {{gpu}}"),), "Share of the time."),
    Panel(
        "Memory of the GPU",
        "bytes",
        (
            (f"max by (instance, gpu) ({_of('fmx_gpu_memory_used_bytes')})", "used {{instance}} {{gpu}}"),
            (f"max by (instance, gpu) ({_of('fmx_gpu_memory_bytes')})", "there is {{instance}} {{gpu}}"),
        ),
    ),
)


def dashboard(plan: Plan) -> dict[str, Any]:
    """Build the dashboard of a deployment."""
    panels = (*PANELS, *GPU_PANELS) if plan.options.device == "cuda" else PANELS
    return {
        "uid": f"fmx-{plan.name}"[:40],
        "title": f"fmx: {plan.name}",
        "tags": ["fmx"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source_variable(), _job_variable(plan.name)]},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}


def _job_variable(job: str) -> dict[str, Any]:
    query = "label_values(fmx_model_info, job)"
    current = {"selected": True, "text": job, "value": job}
    return {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": SOURCE,
        "query": query,
        "definition": query,
        "refresh": 2,
        "current": current,
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    place = {"h": HEIGHT, "w": WIDTH, "x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT}
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for index, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": targets,
    }
