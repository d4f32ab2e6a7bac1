"""What is written for Kubernetes, held against its own schemas (kubernetes-validate carries them) and against ours for what others define."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from fmx.errors import UsageError
from serve.deploy.plan import AUTOSCALERS
from serve.deploy.text import yaml_text
from tests.serve.deploy.conftest import Written

SCHEMAS = Path(__file__).parent / "schemas"
OTHERS = {
    ("keda.sh/v1alpha1", "ScaledObject"): "scaledobject",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitor",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheusrule",
    ("serving.knative.dev/v1", "Service"): "knative-service",
}
VERSIONS = ("1.30", "1.34")


def check(content: Any, schema: str) -> None:
    jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{schema}.json").read_text())).validate(content)


def read(folder: Path) -> dict[str, Any]:
    return {file.stem: yaml.safe_load(file.read_text()) for file in sorted((folder / "kubernetes").glob("*.yaml"))}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
def test_every_object_is_what_its_schema_says(written: Written, autoscaler: str, device: str) -> None:
    found = read(written(autoscaler=autoscaler, device=device, redis=True))
    applied = found.pop("kustomization")["resources"]
    for name in ("bentocloud", "prometheus-adapter"):
        found.pop(name, None)
    assert sorted(applied) == sorted(f"{name}.yaml" for name in found)
    for content in found.values():
        schema = OTHERS.get((content["apiVersion"], content["kind"]))
        if schema is not None:
            check(content, schema)
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(content, version, strict=True)


@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
def test_only_the_chosen_autoscaler_is_written(written: Written, autoscaler: str) -> None:
    found = read(written(autoscaler=autoscaler))
    assert {name for name in ("hpa", "keda", "knative") if name in found} == {autoscaler} - {"none"}
    assert ("prometheus-adapter" in found) == (autoscaler == "hpa")
    assert ("deployment" in found) == (autoscaler != "knative")
    if autoscaler != "knative":
        assert found["deployment"]["spec"].get("replicas") == (2 if autoscaler == "none" else None)


def test_pod_is_locked_down_probed_and_given_time_to_end(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """triton#6230, BentoML#3669: requests lost at a roll-out, probes that time out while a model is opened."""
    monkeypatch.setenv("FMX_DRAIN_SECONDS", "10")
    pod = read(written(redis=True))["deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["terminationGracePeriodSeconds"] >= 10 + 30 + 5
    assert pod["enableServiceLinks"] is False
    for name, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert container[name]["httpGet"] == {"path": path, "port": 3000}
        assert container[name]["timeoutSeconds"] >= 2
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 120
    security = container["securityContext"]
    assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, True, False)
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    resources = container["resources"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"] == "4"
    assert {"name": "FMX_DRAIN_SECONDS", "value": "10"} in container["env"]
    assert not any("sub" in mount for mount in container["volumeMounts"] for mount in mount)  # a subPath would never see a revoked key
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/var/lib/fmx"}
    secret = next(volume for volume in pod["volumes"] if "secret" in volume)
    assert secret["secret"]["secretName"] == "digits-keys"


def test_network_policy_lets_in_the_port_and_out_names_and_redis(written: Written) -> None:
    policy = read(written())["networkpolicy"]["spec"]
    assert policy["ingress"] == [{"ports": [{"port": 3000, "protocol": "TCP"}]}]
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53]
    policy = read(written(redis=True))["networkpolicy"]["spec"]
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53, 6379]


def test_hpa_and_its_adapter_scale_on_offered_load_at_the_measured_capacity_kserve_4259(written: Written) -> None:
    """kserve#4259, #2156: an autoscaler that asks for a metric that nobody makes, and a target that is taken for a limit."""
    found = read(written(least=3, most=7))
    spec = found["hpa"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"], spec["scaleTargetRef"]["name"]) == (3, 7, "digits")
    targets = {metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"] for metric in spec["metrics"]}
    assert targets == {"fmx_requests_offered_per_second": "84350m", "fmx_queue_rows": "4"}
    check(found["prometheus-adapter"], "prometheus-adapter")
    rules = found["prometheus-adapter"]["rules"]["custom"]
    assert {rule["name"]["as"] for rule in rules} == targets.keys()
    assert found["prometheus-adapter"]["prometheus"] == {"url": "http://prometheus.monitoring", "port": 9090, "path": ""}


def test_keda_asks_prometheus_for_the_same(written: Written) -> None:
    spec = read(written(autoscaler="keda"))["keda"]["spec"]
    triggers = {trigger["name"]: trigger["metadata"] for trigger in spec["triggers"]}
    assert {name: facts["threshold"] for name, facts in triggers.items()} == {"offered": "84.35", "queue": "4"}
    for facts in triggers.values():
        assert '{namespace="vision",job="digits"}' in facts["query"]
        assert facts["ignoreNullValues"] == "false"
    assert spec["minReplicaCount"] >= 1  # without a pod there is no series to come back by
    assert spec["fallback"]["replicas"] == 2


def test_knative_is_told_no_more_than_it_takes(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_QUEUE_ROWS", "2000")
    assert read(written(autoscaler="knative"))["knative"]["spec"]["template"]["spec"]["containerConcurrency"] == 1000
    monkeypatch.setenv("FMX_TIMEOUT_SECONDS", "900")
    with pytest.raises(UsageError, match="Knative"):
        written(autoscaler="knative")


def test_knative_is_told_concurrency_and_a_hard_limit_above_it(written: Written) -> None:
    template = read(written(autoscaler="knative"))["knative"]["spec"]["template"]
    told = {key.partition("/")[2]: value for key, value in template["metadata"]["annotations"].items() if key.startswith("autoscaling")}
    assert (told["target"], told["target-utilization-percentage"], told["min-scale"], told["max-scale"]) == ("4", "100", "2", "10")
    assert template["spec"]["containerConcurrency"] == 512
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {key: template["spec"][key] for key in ("containers", "volumes")}}
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def test_bentocloud_is_told_the_same_in_its_own_words(written: Written) -> None:
    from bentoml._internal.cloud.schemas.modelschemas import DeploymentServiceConfig
    from bentoml._internal.utils.cattr import bentoml_cattr

    content = read(written())["bentocloud"]
    (name,) = content["services"]
    assert name == "fmx"  # the service's name in serve/service.py
    parsed = bentoml_cattr.structure(content["services"][name], DeploymentServiceConfig)
    assert parsed.scaling is not None
    assert (parsed.scaling.min_replicas, parsed.scaling.max_replicas) == (2, 10)
    assert parsed.config_overrides == {"traffic": {"concurrency": 4, "max_concurrency": 512}}


def test_gpu_is_asked_for_in_the_pod(written: Written) -> None:
    resources = read(written(device="cuda"))["deployment"]["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 1


def test_monitor_finds_the_pods_port(written: Written) -> None:
    found = read(written())
    container = found["deployment"]["spec"]["template"]["spec"]["containers"][0]
    labels = found["deployment"]["spec"]["template"]["metadata"]["labels"]
    monitor = found["podmonitor"]["spec"]
    assert monitor["podMetricsEndpoints"][0]["port"] == container["ports"][0]["name"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "digits"  # the job that every rule asks for


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
def test_kustomize_builds_the_folder(written: Written, autoscaler: str) -> None:
    folder = written(autoscaler=autoscaler)
    done = subprocess.run(["kubectl", "kustomize", str(folder / "kubernetes")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(yaml.safe_load((folder / "kubernetes" / "kustomization.yaml").read_text())["resources"])
    assert {one["metadata"]["namespace"] for one in built} == {"vision"}


def test_version_that_looks_like_a_number_stays_text() -> None:
    """A package's version is hexadecimal: `12e3` bare would be a number to Kubernetes."""
    for version in ("123456", "12e34567", "1.5", "66f39fc66eaa"):
        line = yaml_text({"version": version}).strip()
        assert (line == f"version: {version}") == (version == "66f39fc66eaa")


def test_memory_limit_holds_what_the_settings_let_in(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    def limits() -> tuple[int, int]:
        resources = read(written())["deployment"]["spec"]["template"]["spec"]["containers"][0]["resources"]
        return tuple(int(resources[kind]["memory"].removesuffix("Mi")) for kind in ("requests", "limits"))  # type: ignore[return-value]

    request, limit = limits()
    monkeypatch.setenv("FMX_BODIES_BYTES", "100000000")
    monkeypatch.setenv("FMX_MAX_PIXELS", "10000000")
    lower_request, lower_limit = limits()
    assert lower_request == request
    assert limit - lower_limit == pytest.approx(math.ceil(2 * (300e6 + 2 * 12 * 70e6) / 2**20), abs=2)
