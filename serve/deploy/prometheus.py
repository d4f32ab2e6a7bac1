"""Prometheus' own files for Compose, and the dashboard's and data source's provisioning for Grafana."""

from __future__ import annotations

from pathlib import Path

from serve.deploy.alerts import rule_groups
from serve.deploy.dashboard import dashboard
from serve.deploy.plan import PORT, Plan
from serve.deploy.text import json_text, yaml_text

SCRAPE_SECONDS = 15
COMPOSE_SERVICE = "fmx"
DASHBOARDS = "/var/lib/grafana/dashboards"


def write_prometheus(plan: Plan, folder: Path) -> None:
    """Write prometheus.yml and rules.yml."""
    folder.mkdir()
    every = f"{SCRAPE_SECONDS}s"
    config = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": plan.name, "static_configs": [{"targets": [f"{COMPOSE_SERVICE}:{PORT}"]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml_text(config, "Alerts go nowhere until an Alertmanager is named here, under `alerting`."))
    groups = rule_groups(plan, in_kubernetes=False)
    (folder / "rules.yml").write_text(yaml_text({"groups": groups}, "What each alert means is in RUNBOOK.md."))


def write_grafana(plan: Plan, folder: Path) -> None:
    """Write the dashboard, and what makes Grafana load it."""
    sources, boards = folder / "provisioning" / "datasources", folder / "provisioning" / "dashboards"
    for place in (sources, boards):
        place.mkdir(parents=True)
    (folder / "dashboard.json").write_text(json_text(dashboard(plan)))
    source = {"name": "Prometheus", "uid": "prometheus", "type": "prometheus", "access": "proxy", "url": "http://prometheus:9090", "isDefault": True}
    (sources / "prometheus.yaml").write_text(yaml_text({"apiVersion": 1, "datasources": [source]}))
    provider = {"name": plan.name, "type": "file", "options": {"path": DASHBOARDS}}
    (boards / "fmx.yaml").write_text(yaml_text({"apiVersion": 1, "providers": [provider]}))
