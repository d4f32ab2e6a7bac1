"""compose.yaml: one replica, locked down, with Prometheus and Grafana beside it."""

from __future__ import annotations

from typing import Any

from serve.deploy.plan import KEYS_FOLDER, PORT, STATE, USER, Plan
from serve.deploy.pod import mebibytes
from serve.deploy.prometheus import COMPOSE_SERVICE, DASHBOARDS
from serve.deploy.text import yaml_text

PROMETHEUS_IMAGE, GRAFANA_IMAGE = "prom/prometheus:v3.5.0", "grafana/grafana:12.0.2"
COMMENT = """\
The folder keys/ is mounted, not one file as a secret: keys are written by renaming, and a file that is mounted by itself would stay the old one,
so that a revoked key would stay good until the next restart."""


def compose_text(plan: Plan) -> str:
    """Write compose.yaml."""
    services = {COMPOSE_SERVICE: _service(plan), "prometheus": _prometheus(), "grafana": _grafana()}
    return yaml_text({"name": plan.name, "services": services, "volumes": {"prometheus": {}, "grafana": {}}}, COMMENT)


def _service(plan: Plan) -> dict[str, Any]:
    _, limit = plan.memory_bytes
    variables = {**plan.variables, **({"FMX_REDIS_URL": "${FMX_REDIS_URL:?the URL of Redis}"} if plan.options.redis else {})}
    gpu = {"reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}} if plan.options.device == "cuda" else {}
    return {
        "image": plan.image,
        "build": {"context": "."},
        "user": f"${{FMX_USER:-{USER}:{USER}}}",
        "environment": variables,
        "ports": [f"${{FMX_BIND:-127.0.0.1:{PORT}}}:{PORT}"],
        "volumes": [_bind("./keys", KEYS_FOLDER)],
        "tmpfs": [f"/tmp:size={mebibytes(plan.spool_bytes)[:-2]}m,mode=1777", f"{STATE}:size=256m,mode=1777"],
        **_locked(),
        "read_only": True,
        "stop_grace_period": f"{plan.grace_seconds}s",
        "deploy": {"resources": {"limits": {"cpus": str(plan.cpus), "memory": f"{mebibytes(limit + plan.spool_bytes)[:-2]}M"}, **gpu}},
        "restart": "unless-stopped",
    }


def _prometheus() -> dict[str, Any]:
    return {
        "image": PROMETHEUS_IMAGE,
        "volumes": [_bind("./prometheus", "/etc/prometheus"), "prometheus:/prometheus"],
        "ports": ["127.0.0.1:9090:9090"],
        **_locked(),
        "restart": "unless-stopped",
    }


def _grafana() -> dict[str, Any]:
    return {
        "image": GRAFANA_IMAGE,
        "environment": {"GF_SECURITY_ADMIN_PASSWORD": "${GRAFANA_PASSWORD:?choose one}", "GF_ANALYTICS_REPORTING_ENABLED": "false"},
        "volumes": [
            _bind("./grafana/provisioning", "/etc/grafana/provisioning"),
            _bind("./grafana/dashboard.json", f"{DASHBOARDS}/fmx.json"),
            "grafana:/var/lib/grafana",
        ],
        "ports": ["127.0.0.1:3001:3000"],
        **_locked(),
        "depends_on": ["prometheus"],
        "restart": "unless-stopped",
    }


def _bind(source: str, target: str) -> dict[str, Any]:
    return {"type": "bind", "source": source, "target": target, "read_only": True}


def _locked() -> dict[str, Any]:
    return {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
