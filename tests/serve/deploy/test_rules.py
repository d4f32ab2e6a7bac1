"""The rules in Prometheus' own hands: promtool checks them and plays series through them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from serve import metrics
from serve.deploy.alerts import alerts
from serve.deploy.runbook import PAGES
from tests.serve.deploy.conftest import PlanOf, Written

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def run_promtool(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@promtool
@pytest.mark.parametrize("changes", [{}, {"redis": True}, {"autoscaler": "none"}])
def test_promtool_takes_rules_and_configuration(written: Written, unmeasured: Any, changes: dict[str, Any]) -> None:
    folder = written(unmeasured if changes.get("autoscaler") == "none" else None, **changes)
    run_promtool("check", "config", "prometheus/prometheus.yml", cwd=folder)
    (folder / "kubernetes.yml").write_text(yaml.safe_dump(yaml.safe_load((folder / "kubernetes" / "prometheusrule.yaml").read_text())["spec"]))
    run_promtool("check", "rules", "kubernetes.yml", cwd=folder)


@promtool
def test_every_query_of_dashboard_and_keda_is_promql(written: Written) -> None:
    folder = written(autoscaler="keda")
    queries = [target["expr"] for panel in dashboard(folder)["panels"] for target in panel["targets"]]
    keda = yaml.safe_load((folder / "kubernetes" / "keda.yaml").read_text())
    queries += [trigger["metadata"]["query"] for trigger in keda["spec"]["triggers"]]
    rules = [{"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")} for number, query in enumerate(queries)]
    (folder / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run_promtool("check", "rules", "queries.yml", cwd=folder)


def dashboard(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "grafana" / "dashboard.json").read_text())
    return content


def test_dashboard_shows_each_panel_in_a_place_of_its_own(written: Written) -> None:
    folder = written()
    panels = dashboard(folder)["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(target["expr"] and 'job="$job"' in target["expr"] for panel in panels for target in panel["targets"])
    provider = yaml.safe_load((folder / "grafana" / "provisioning" / "dashboards" / "fmx.yaml").read_text())["providers"][0]
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    mounted = [volume["target"] for volume in compose["services"]["grafana"]["volumes"] if isinstance(volume, dict)]
    assert any(target.startswith(provider["options"]["path"]) for target in mounted)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dashboard_asks_for_metrics_that_there_are(written: Written, device: str) -> None:
    made = {sample for metric in vars(metrics).values() if isinstance(metric, Counter | Gauge | Histogram) for sample in names_of(metric)}
    asked = re.findall(r"(?<![\w:])fmx_[a-z0-9_]+", (written(device=device) / "grafana" / "dashboard.json").read_text())
    assert set(asked) <= made


def names_of(metric: Counter | Gauge | Histogram) -> set[str]:
    return {f"{described.name}{suffix}" for described in metric.describe() for suffix in ("", "_total", "_bucket", "_sum", "_count")}


def test_every_alert_has_its_heading_in_the_runbook(written: Written) -> None:
    folder = written(redis=True)
    headings = re.findall(r"^## (\w+)$", (folder / "RUNBOOK.md").read_text(), re.MULTILINE)
    rules = yaml.safe_load((folder / "prometheus" / "rules.yml").read_text())["groups"][1]["rules"]
    assert {rule["annotations"]["runbook"] for rule in rules} == {f"RUNBOOK.md#{heading.lower()}" for heading in headings}
    assert set(headings) == PAGES.keys()
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
    assert "{" not in re.sub(r"`[^`\n]*`", "", (folder / "RUNBOOK.md").read_text()).replace("${", "")


def test_alerts_follow_what_there_is(plan_of: PlanOf, unmeasured: Any) -> None:
    names = {alert.name for alert in alerts(plan_of(unmeasured, autoscaler="none"), in_kubernetes=False)}
    assert not names & {"FmxLatencyBudgetBurn", "FmxNearCapacity", "FmxLimitsNotShared"}
    assert "FmxLimitsNotShared" in {alert.name for alert in alerts(plan_of(redis=True), in_kubernetes=False)}


PREDICT = 'job="digits",route="/v1/predict"'
REQUESTS = "fmx_requests_total{" + PREDICT
BURNING = [
    {"series": REQUESTS + ',status="200"}', "values": "0+57x120"},
    {"series": REQUESTS + ',status="500"}', "values": "0+3x120"},
]
"""5 % of sixty requests a minute, for two hours."""
FINE = [
    {"series": REQUESTS + ',status="200"}', "values": "0+60x120"},
    {"series": 'fmx_requests_total{job="digits",route="/readyz",status="503"}', "values": "0+30x120"},
    {"series": REQUESTS + ',status="429"}', "values": "0+3x120"},
]
"""Probes that are told to wait, and callers over their rate, are no failures."""


def series(name: str, values: str, labels: str = "") -> dict[str, str]:
    return {"series": f'{name}{{job="digits",instance="a"{labels}}}', "values": values}


def played(folder: Path, given: list[dict[str, str]], at: str, name: str, expected: list[dict[str, str]]) -> None:
    """Play series, a value a minute, and compare the labels of the alerts of one name that fire at a time."""
    rules = yaml.safe_load((folder / "prometheus" / "rules.yml").read_text())
    for rule in rules["groups"][1]["rules"]:
        rule["annotations"] = {}  # wording is not what is tested here
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    wanted = [{"exp_labels": labels} for labels in expected]
    test = {"interval": "1m", "input_series": given, "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": wanted}]}
    (folder / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
    run_promtool("test", "rules", "test.yml", cwd=folder)


@promtool
def test_burning_budget_pages_and_stops_when_the_failures_stop(written: Written) -> None:
    folder = written()
    page = {"job": "digits", "severity": "page"}
    fast, slow = {**page, "long": "1h", "short": "5m"}, {**page, "long": "6h", "short": "30m"}
    ticket = {"job": "digits", "severity": "ticket", "long": "3d", "short": "6h"}
    played(folder, BURNING, "5m", "FmxErrorBudgetBurn", [fast])
    played(folder, BURNING, "110m", "FmxErrorBudgetBurn", [fast, slow, ticket])
    ended = [
        {"series": REQUESTS + ',status="200"}', "values": "0+57x60 3420+60x60"},
        {"series": REQUESTS + ',status="500"}', "values": "0+3x60 180+0x60"},
    ]
    played(folder, ended, "75m", "FmxErrorBudgetBurn", [slow, ticket])  # the short window is clean: the fast one is over
    played(folder, FINE, "110m", "FmxErrorBudgetBurn", [])


@promtool
def test_slow_predictions_burn_the_latency_budget(written: Written) -> None:
    folder = written()

    def timed(slow: int) -> list[dict[str, str]]:
        return [
            {"series": "fmx_request_seconds_count{" + PREDICT + "}", "values": "0+100x90"},
            {"series": "fmx_request_seconds_bucket{" + PREDICT + ',le="0.1"}', "values": f"0+{100 - slow}x90"},
        ]

    fast = {"job": "digits", "severity": "page", "long": "1h", "short": "5m"}
    played(folder, timed(20), "10m", "FmxLatencyBudgetBurn", [fast])
    played(folder, timed(0), "80m", "FmxLatencyBudgetBurn", [])


@promtool
def test_refused_load_pages_and_a_callers_own_limit_does_not(written: Written) -> None:
    folder = written()
    offered = series("fmx_requests_offered_total", "0+100x30")
    shed = {"job": "digits", "severity": "page"}
    played(folder, [offered, series("fmx_shed_total", "0+10x30", ',reason="overloaded"')], "15m", "FmxRefuses", [shed])
    played(folder, [offered, series("fmx_shed_total", "0+90x30", ',reason="over_rate"')], "15m", "FmxRefuses", [])


@promtool
def test_replicas_that_are_gone_or_not_ready_page(written: Written) -> None:
    folder = written()
    instance = {"job": "digits", "instance": "a", "severity": "page"}
    played(folder, [series("up", "1 0x20")], "10m", "FmxDown", [instance])
    played(folder, [series("up", "1x20")], "10m", "FmxGone", [])
    played(folder, [series("another", "1x20")], "10m", "FmxGone", [{"job": "digits", "severity": "page"}])
    played(folder, [series("fmx_ready_workers", "0x20")], "10m", "FmxNotReady", [instance])
    played(folder, [series("fmx_ready_workers", "0 0 1x20")], "10m", "FmxNotReady", [])


@promtool
def test_lost_worker_drift_and_lost_audit_entries_fire(written: Written) -> None:
    folder = written()
    wanted = series("fmx_workers_wanted", "2x60")
    ticket = {"job": "digits", "severity": "ticket"}
    page = {"job": "digits", "instance": "a", "severity": "page"}
    played(folder, [wanted, series("fmx_workers_alive", "2 1x60")], "10m", "FmxWorkerLost", [page])
    played(folder, [wanted, series("fmx_workers_alive", "2x60")], "10m", "FmxWorkerLost", [])
    drift = [series("fmx_drift_alarm", "1x60", ',feature="brightness"'), series("fmx_drift_alarm", "0x60", ',feature="contrast"')]
    played(folder, drift, "40m", "FmxDrift", [{**ticket, "feature": "brightness"}])
    played(folder, drift, "20m", "FmxDrift", [])
    lost = series("fmx_audit_lost_total", "0 0 3x30")
    played(folder, [lost], "5m", "FmxAuditLost", [page])
    played(folder, [lost], "30m", "FmxAuditLost", [])


@promtool
def test_what_ends_is_told_in_time_and_what_does_not_is_not(written: Written) -> None:
    folder = written(model_days=30)
    day = 86400
    ticket = {"job": "digits", "severity": "ticket"}
    soon, later, past = (series("fmx_key_expires_timestamp_seconds", f"{end}x100", f',key="{key}"') for key, end in KEYS.items())
    played(folder, [soon, later, past], "1h", "FmxKeyExpires", [{**ticket, "key": "soon"}])
    certificate = series("fmx_certificate_expires_timestamp_seconds", f"{20 * day}x200")
    played(folder, [certificate], "2h", "FmxCertificateExpires", [ticket])
    last_days = series("fmx_certificate_expires_timestamp_seconds", f"{2 * day}x200")
    played(folder, [last_days], "2h", "FmxCertificateExpires", [ticket, {**ticket, "severity": "page"}])
    for age, fired in ((31, [ticket]), (29, [])):
        played(folder, [series("fmx_model_created_timestamp_seconds", f"{-age * day}x200")], "2h", "FmxModelOld", fired)


KEYS = {"soon": 10 * 86400, "later": 20 * 86400, "past": 1800}
"""Ends, in seconds since 1970, when promtool's clock begins."""


@promtool
def test_limits_that_are_not_shared_are_told_where_redis_was_asked_for(written: Written) -> None:
    folder = written(redis=True)
    both = [series("fmx_limits_shared", "1 0x30"), {"series": 'fmx_limits_shared{job="digits",instance="b"}', "values": "1x30"}]
    played(folder, both, "15m", "FmxLimitsNotShared", [{"job": "digits", "severity": "ticket"}])


@promtool
def test_utilisation_is_the_offered_load_over_what_the_replicas_hold(written: Written) -> None:
    folder = written()
    capacity = series("fmx_capacity_requests_per_second", "2x60")
    near = {"job": "digits", "severity": "ticket"}
    played(folder, [series("fmx_requests_offered_total", "0+118x60"), capacity], "30m", "FmxNearCapacity", [near])
    played(folder, [series("fmx_requests_offered_total", "0+60x60"), capacity], "30m", "FmxNearCapacity", [])
    unmeasured = series("fmx_capacity_requests_per_second", "0x60")
    played(folder, [series("fmx_requests_offered_total", "0+118x60"), unmeasured], "30m", "FmxNearCapacity", [])
