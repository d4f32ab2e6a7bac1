"""The Kubernetes objects that do not depend on the autoscaler, and the folder of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve.deploy.alerts import rule_groups
from serve.deploy.autoscalers import bentocloud, hpa, keda, knative, prometheus_adapter
from serve.deploy.plan import PORT, USER, Plan
from serve.deploy.pod import container, metadata, package_annotations, probe, volumes
from serve.deploy.prometheus import SCRAPE_SECONDS
from serve.deploy.text import yaml_text

REDIS_PORT = 6379
NODE_LOCAL_DNS = "169.254.20.10/32"
Object = dict[str, Any]


def write_kubernetes(plan: Plan, folder: Path) -> None:
    """Write a file an object, and the kustomization that names those to apply."""
    folder.mkdir()
    objects, others = _objects(plan), _others(plan)
    for name, (content, comment) in {**objects, **others}.items():
        (folder / f"{name}.yaml").write_text(yaml_text(content, comment))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": plan.options.namespace,
        "resources": [f"{name}.yaml" for name in objects],
    }
    (folder / "kustomization.yaml").write_text(yaml_text(kustomization, f"kubectl apply -k {folder.name}/"))


def _objects(plan: Plan) -> dict[str, tuple[Object, str]]:
    """Give what is applied, by file name, each with the comment above it."""
    monitoring = {
        "podmonitor": (
            pod_monitor(plan),
            "For the Prometheus operator: it scrapes every pod, also one that never becomes ready.",
        ),
        "prometheusrule": (prometheus_rule(plan), "What each alert means is in RUNBOOK.md."),
    }
    if plan.options.autoscaler == "knative":
        return {"knative": knative(plan), **monitoring}
    measured = ", as measured" if plan.capacity is not None else ""
    serving = {
        "deployment": (
            deployment(plan),
            f"CPU is {plan.workers} worker(s) x {plan.threads} thread(s){measured}. README.md says how memory is reckoned.",
        ),
        "service": (service(plan), ""),
        "poddisruptionbudget": (disruption_budget(plan), ""),
        "networkpolicy": (network_policy(plan), "In: the service's port. Out: DNS" + (" and Redis." if plan.options.redis else ".")),
        **monitoring,
    }
    scaling = {"hpa": hpa, "keda": keda}.get(plan.options.autoscaler)
    return {**serving, plan.options.autoscaler: scaling(plan)} if scaling is not None else serving


def _others(plan: Plan) -> dict[str, tuple[Object, str]]:
    """Give what is written and not applied: values of a Helm chart, and the configuration of another platform."""
    adapter = {"prometheus-adapter": prometheus_adapter(plan)} if plan.options.autoscaler == "hpa" else {}
    return {**adapter, "bentocloud": bentocloud(plan)}


def deployment(plan: Plan) -> Object:
    """Give the Deployment. Where an autoscaler is written, it says how many replicas there are."""
    replicas = {"replicas": plan.options.least} if plan.options.autoscaler == "none" else {}
    probes = {
        "startupProbe": probe("/readyz", periodSeconds=2, failureThreshold=90),
        "readinessProbe": probe("/readyz", periodSeconds=5, failureThreshold=2),
        "livenessProbe": probe("/livez", periodSeconds=10, failureThreshold=3),
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service called fmx would set FMX_... variables
        "terminationGracePeriodSeconds": plan.grace_seconds,
        "securityContext": {"runAsNonRoot": True, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [
            _spread(plan, "topology.kubernetes.io/zone"),
            _spread(plan, "kubernetes.io/hostname"),
        ],
        "containers": [{**container(plan), "ports": [{"name": "http", "containerPort": PORT}], **probes}],
        "volumes": volumes(plan),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(plan),
        "spec": {
            **replicas,
            "selector": {"matchLabels": plan.labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": metadata(plan)["labels"], "annotations": package_annotations(plan)}, "spec": pod},
        },
    }


def _spread(plan: Plan, key: str) -> Object:
    return {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": plan.labels}}


def service(plan: Plan) -> Object:
    """Give the Service."""
    ports = [{"name": "http", "port": PORT, "targetPort": "http"}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(plan), "spec": {"selector": plan.labels, "ports": ports}}


def disruption_budget(plan: Plan) -> Object:
    """Let a node be drained one pod at a time, also where there is one replica."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": plan.labels}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(plan), "spec": spec}


def network_policy(plan: Plan) -> Object:
    """Let in what comes to the port, and out what the service asks for."""
    resolvers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}, {"ipBlock": {"cidr": NODE_LOCAL_DNS}}]
    out: list[Object] = [{"to": resolvers, "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}]
    if plan.options.redis:
        out.append({"ports": [{"port": REDIS_PORT, "protocol": "TCP"}]})
    spec = {
        "podSelector": {"matchLabels": plan.labels},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": PORT, "protocol": "TCP"}]}],
        "egress": out,
    }
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(plan), "spec": spec}


def pod_monitor(plan: Plan) -> Object:
    """Scrape every pod by itself, under the deployment's name as job. Knative calls the port `user-port`."""
    port = "user-port" if plan.options.autoscaler == "knative" else "http"
    spec = {
        "jobLabel": "app.kubernetes.io/name",
        "selector": {"matchLabels": plan.labels},
        "podMetricsEndpoints": [{"port": port, "path": "/metrics", "interval": f"{SCRAPE_SECONDS}s"}],
    }
    return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": metadata(plan), "spec": spec}


def prometheus_rule(plan: Plan) -> Object:
    """Give the rules to the Prometheus operator."""
    spec = {"groups": rule_groups(plan, in_kubernetes=True)}
    return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata(plan), "spec": spec}
