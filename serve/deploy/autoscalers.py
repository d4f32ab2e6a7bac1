"""What each autoscaler is told: computed from the measured capacity (serve/scaling/targets.py), never typed.

All scale on offered load, refused requests included; scaled on answered ones, a service that sheds would look less busy than it is.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlsplit

from fmx.errors import UsageError
from serve.deploy.plan import KEYS_FOLDER, PORT, Plan
from serve.deploy.pod import READ_BY_ALL, container, metadata, package_annotations, probe, volumes
from serve.deploy.rules import selector
from serve.scaling.targets import Targets

Object = dict[str, Any]
OFFERED, OFFERED_RATE, QUEUE = "fmx_requests_offered_total", "fmx_requests_offered_per_second", "fmx_queue_rows"
BEHAVIOUR: Object = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}, {"type": "Pods", "value": 2, "periodSeconds": 30}],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "selectPolicy": "Min",
        "policies": [{"type": "Percent", "value": 25, "periodSeconds": 60}],
    },
}
"""Up at once, by at most twice as many; down slowly, after five quiet minutes."""

KNATIVE_CONCURRENCY, KNATIVE_SECONDS = 1000, 600
"""Above which Knative's webhook refuses a Service, as it comes."""


def hpa(plan: Plan) -> tuple[Object, str]:
    """Give the HorizontalPodAutoscaler; its metrics come through prometheus-adapter."""
    targets, queue = _targets(plan)
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": plan.name},
        "minReplicas": plan.options.least,
        "maxReplicas": plan.options.most,
        "metrics": [_pods_metric(OFFERED_RATE, _quantity(targets.requests_per_second)), _pods_metric(QUEUE, str(queue))],
        "behavior": BEHAVIOUR,
    }
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata(plan), "spec": spec}, _why(plan)


def prometheus_adapter(plan: Plan) -> tuple[Object, str]:
    """Give the values of prometheus-adapter's Helm chart that make the HPA's metrics."""
    overrides = {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}}
    rules = [
        {
            "seriesQuery": f'{OFFERED}{{namespace!="",pod!=""}}',
            "resources": overrides,
            "name": {"as": OFFERED_RATE},
            "metricsQuery": "sum(rate(<<.Series>>{<<.LabelMatchers>>}[1m])) by (<<.GroupBy>>)",
        },
        {
            "seriesQuery": f'{QUEUE}{{namespace!="",pod!=""}}',
            "resources": overrides,
            "name": {"as": QUEUE},
            "metricsQuery": "sum(avg_over_time(<<.Series>>{<<.LabelMatchers>>}[30s])) by (<<.GroupBy>>)",
        },
    ]
    comment = (
        "Values of the Helm chart prometheus-community/prometheus-adapter; without Helm, the list under `custom` goes into the adapter's own `rules`."
    )
    return {"prometheus": _prometheus_of(plan), "rules": {"custom": rules}}, comment


def keda(plan: Plan) -> tuple[Object, str]:
    """Give KEDA's ScaledObject. No pod, no series: so it never goes to none."""
    targets, queue = _targets(plan)
    series = selector(plan, in_kubernetes=True)
    spec = {
        "scaleTargetRef": {"name": plan.name},
        "pollingInterval": 15,
        "cooldownPeriod": 300,
        "minReplicaCount": plan.options.least,
        "maxReplicaCount": plan.options.most,
        "fallback": {"failureThreshold": 3, "replicas": plan.options.least, "behavior": "currentReplicasIfHigher"},
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": BEHAVIOUR}},
        "triggers": [
            _trigger(plan, "offered", f"sum(rate({OFFERED}{series}[1m]))", str(targets.requests_per_second)),
            _trigger(plan, "queue", f"sum(avg_over_time({QUEUE}{series}[30s]))", str(queue)),
        ],
    }
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": metadata(plan), "spec": spec}, _why(plan)


def knative(plan: Plan) -> tuple[Object, str]:
    """Give the Knative Service, in place of Deployment, Service and HPA. The headroom is in the target already, so it is used whole."""
    targets, _ = _targets(plan)
    seconds = math.ceil(plan.settings.timeout_seconds) + 5
    if seconds > KNATIVE_SECONDS:
        raise UsageError(
            f"Knative lets a request take {KNATIVE_SECONDS} s, and FMX_TIMEOUT_SECONDS asks for more.", hint="Lower it, or use --autoscaler keda."
        )
    prefix = "autoscaling.knative.dev"
    scaling = {
        f"{prefix}/class": f"kpa.{prefix}",
        f"{prefix}/metric": "concurrency",
        f"{prefix}/target": str(targets.concurrency),
        f"{prefix}/target-utilization-percentage": "100",
        f"{prefix}/min-scale": str(plan.options.least),
        f"{prefix}/max-scale": str(plan.options.most),
        f"{prefix}/window": "60s",
        f"{prefix}/scale-down-delay": "2m",
    }
    probes = {
        "readinessProbe": probe("/readyz", periodSeconds=5, failureThreshold=2),
        "livenessProbe": probe("/livez", periodSeconds=10, failureThreshold=3, initialDelaySeconds=30),
    }
    pod = {
        "containerConcurrency": min(targets.hard_limit, KNATIVE_CONCURRENCY),
        "timeoutSeconds": seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [{**container(plan), "ports": [{"containerPort": PORT}], **probes}],
        "volumes": volumes(plan, READ_BY_ALL),  # a pod of Knative has no fsGroup unless its operator allows it
    }
    labels = metadata(plan)["labels"]
    template = {"metadata": {"labels": labels, "annotations": {**scaling, **package_annotations(plan)}}, "spec": pod}
    return {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": metadata(plan), "spec": {"template": template}}, _why(plan)


def bentocloud(plan: Plan) -> tuple[Object, str]:
    """Give what `bentoml deploy -f` takes. BentoCloud scales on requests under way."""
    windows = {"scale_up_stabilization_window": 0, "scale_down_stabilization_window": 300}
    scaling = {"min_replicas": plan.options.least, "max_replicas": plan.options.most, "policy": windows}
    service: Object = {"scaling": scaling}
    if plan.targets is not None:
        traffic = {"concurrency": plan.targets.concurrency, "max_concurrency": plan.targets.hard_limit}
        service["config_overrides"] = {"traffic": traffic}
    variables = {"FMX_KEYS_FILE": f"{KEYS_FOLDER}/keys.json", **plan.variables}
    content = {
        "name": plan.name,
        "envs": [{"name": name, "value": value} for name, value in variables.items()],
        "secrets": [f"{plan.name}-keys"],
        "services": {"fmx": service},
    }
    comment = (
        "bentoml build, then bentoml deploy BENTO -f bentocloud.yaml, in the project's folder. "
        f"The secret {plan.name}-keys is one that is mounted as the file {KEYS_FOLDER}/keys.json."
    )
    return content, comment


def _targets(plan: Plan) -> tuple[Targets, int]:
    if plan.targets is None or plan.queue_target is None:
        raise UsageError("An autoscaler needs a measured capacity.", hint=f"fmx capacity {plan.package.name}")
    return plan.targets, plan.queue_target


def _pods_metric(name: str, value: str) -> Object:
    return {"type": "Pods", "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": value}}}


def _quantity(number: float) -> str:
    """Write a number as a Kubernetes quantity: whole, or in thousandths."""
    return str(int(number)) if number == int(number) else f"{round(1000 * number)}m"


def _trigger(plan: Plan, name: str, query: str, threshold: str) -> Object:
    facts = {"serverAddress": plan.options.prometheus, "query": query, "threshold": threshold, "ignoreNullValues": "false"}
    return {"type": "prometheus", "name": name, "metricType": "AverageValue", "metadata": facts}


def _prometheus_of(plan: Plan) -> Object:
    place = urlsplit(plan.options.prometheus)
    return {"url": f"{place.scheme}://{place.hostname}", "port": place.port or (443 if place.scheme == "https" else 80), "path": place.path}


def _why(plan: Plan) -> str:
    if plan.capacity is None or plan.targets is None:
        return ""
    measured, given = plan.capacity, plan.targets
    return (
        f"{measured.requests_per_second:g} requests/s within {measured.slo_p99_ms:g} ms at the 99th percentile, measured {measured.date};\n"
        f"times a headroom of {plan.options.headroom:g}: {given.requests_per_second:g} requests/s, {given.concurrency} under way, a replica."
    )
