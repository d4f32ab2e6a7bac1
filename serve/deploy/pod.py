"""The pod: one container that may do nothing but serve, its probes, its resources and its volumes."""

from __future__ import annotations

from typing import Any

from serve.deploy.plan import KEYS_FOLDER, PORT, STATE, USER, Plan

READ_BY_ALL, READ_BY_GROUP = 0o444, 0o440


def container(plan: Plan) -> dict[str, Any]:
    """Give the container, as a Deployment and a Knative Service both take it."""
    request, limit = plan.memory_bytes
    cpus = str(plan.cpus)
    gpu = {"nvidia.com/gpu": 1} if plan.options.device == "cuda" else {}
    return {
        "name": "fmx",
        "image": plan.image,
        "env": [*({"name": name, "value": value} for name, value in plan.variables.items()), *_redis_variable(plan)],
        "resources": {
            "requests": {"cpu": cpus, "memory": mebibytes(request), **gpu},
            "limits": {"cpu": cpus, "memory": mebibytes(limit), **gpu},
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "keys", "mountPath": KEYS_FOLDER, "readOnly": True},
            {"name": "state", "mountPath": STATE},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def volumes(plan: Plan, keys_mode: int = READ_BY_GROUP) -> list[dict[str, Any]]:
    """Give the pod's volumes: the keys' Secret as a folder, since a file mounted by itself would never change, and two that are written to."""
    return [
        {"name": "keys", "secret": {"secretName": f"{plan.name}-keys", "defaultMode": keys_mode}},
        {"name": "state", "emptyDir": {"sizeLimit": "256Mi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": mebibytes(plan.spool_bytes)}},
    ]


def probe(path: str, **numbers: int) -> dict[str, Any]:
    """Give an HTTP probe. While a package is opened the port answers late, so one second would be too little time."""
    return {"httpGet": {"path": path, "port": PORT}, "timeoutSeconds": 3, **numbers}


def metadata(plan: Plan) -> dict[str, Any]:
    """Give the metadata that every object has."""
    labels = {**plan.labels, "app.kubernetes.io/version": plan.package.manifest.version, "app.kubernetes.io/managed-by": "fmx"}
    return {"name": plan.name, "namespace": plan.options.namespace, "labels": labels}


def package_annotations(plan: Plan) -> dict[str, str]:
    """Say which package it is."""
    return {"fmx/package": plan.package.name, "fmx/package-digest": plan.package.digest}


def mebibytes(count: int) -> str:
    """Write bytes as a Kubernetes quantity, rounded up."""
    return f"{-(-count // 2**20)}Mi"


def _redis_variable(plan: Plan) -> list[dict[str, Any]]:
    if not plan.options.redis:
        return []
    return [{"name": "FMX_REDIS_URL", "valueFrom": {"secretKeyRef": {"name": f"{plan.name}-redis", "key": "url"}}}]
