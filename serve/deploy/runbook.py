"""RUNBOOK.md: for each alert what it means, the first command, and what usually follows."""

from __future__ import annotations

from dataclasses import dataclass

from serve.deploy.alerts import Alert, alerts
from serve.deploy.plan import Plan
from serve.deploy.text import render


@dataclass(frozen=True)
class Page:
    """What is said of the alerts of one name."""

    meaning: str
    first: str
    """The first command to run; words in braces stand for this deployment's (`_words`)."""
    then: str


PAGES = {
    "FmxErrorBudgetBurn": Page(
        "Callers get 5xx: 500 is a fault of the service, 503 a replica that is not ready, 504 an answer that came too late. On little traffic "
        "a handful of failures is enough; look at the count before the ratio.",
        '{kubectl} logs {app} --since=15m --prefix | grep -E \'"status":5|"level":"ERROR"\' | tail -20',
        "500 with a traceback after a roll-out: roll back (`{roll_back}`). 503: see FmxNotReady. 504: see FmxRefuses; "
        "requests wait longer than FMX_TIMEOUT_SECONDS.",
    ),
    "FmxLatencyBudgetBurn": Page(
        "Answers are right and come too late. Either more is offered than was measured to be held, or a replica has less CPU than it was measured "
        "with, or inputs have become larger.",
        "{kubectl} top pods {app} --containers",
        "Utilisation above 1 on the dashboard: scale out. Below it: look for throttled CPU (limit below threads x workers), and at the decoding "
        "time, which grows with the inputs. Then measure again: `fmx capacity`.",
    ),
    "FmxNearCapacity": Page(
        "The load is at what the replicas were measured to hold. Nothing is lost yet; an autoscaler that works would have added replicas.",
        "{kubectl} get {scaler},pods {app}",
        "At its maximum: raise it (`fmx deploy --max`). `<unknown>` as the metric: prometheus-adapter or KEDA does not reach Prometheus. "
        "Pods pending: the cluster has no room.",
    ),
    "FmxRefuses": Page(
        "Replicas protect themselves: their queue is full (429, overloaded) or requests would come too late (504, deadline). Callers that keep to "
        "Retry-After get through later.",
        "{kubectl} get pods {app} -o wide",
        "Fewer pods than wanted: see why they do not start. All there: scale out by hand (`{scale}`; an autoscaler takes over again), then find "
        "who sends so much (requests by key, on the dashboard) and give that key a rate: `fmx keys create --rate`.",
    ),
    "FmxDown": Page(
        "A replica does not answer Prometheus. Others may still serve; the error budget says whether callers notice.",
        "{kubectl} describe pods {app} | grep -E '^Name:|Last State|Reason|Exit Code|Restart Count'",
        "OOMKilled: the memory limit is below what the settings let in (README.md of this folder). Exit code 2 or 7: a setting or the key file; "
        "the log's first lines say which. Running and ready: a NetworkPolicy keeps Prometheus out.",
    ),
    "FmxGone": Page(
        "Prometheus knows of no replica at all: everything is down, or the monitor no longer finds it.",
        "{kubectl} get {kind},podmonitor,pods {app}",
        "Nothing listed: somebody deleted it; apply this folder again. Pods there: compare the PodMonitor's selector and the namespaces that "
        "Prometheus watches.",
    ),
    "FmxNotReady": Page(
        "The process lives and does not serve: the package is still being opened, or was refused (a hash, a signature or golden rows that do not "
        "hold), or the replica drains for minutes.",
        "{kubectl} logs {app} --tail=50 | grep -E 'refused|cannot be opened|SIGTERM'",
        "A refused package: the image is damaged or was altered; roll back (`{roll_back}`) and build it again. Golden rows "
        "that differ: this kind of CPU computes otherwise than the one that exported.",
    ),
    "FmxWorkerLost": Page(
        "A worker process has died, and two minutes later none has come in its place. The replica's other workers are not ready without it, so "
        "the replica gets no traffic.",
        "{kubectl} logs {app} --since=30m --prefix | grep -iE 'signal|killed|Traceback|workers is gone' | tail -20",
        "Delete the pod that is short of a worker; another is made (`{kubectl} delete pod POD`). Twice in a day: memory. Compare its use, on the "
        "dashboard, with the limit.",
    ),
    "FmxDrift": Page(
        "What callers send, or what the model answers, is no longer like what it was tested on. The service works; its accuracy is not what was "
        "measured.",
        "{kubectl} port-forward {pod} 3000 & sleep 2; curl -s localhost:3000/metrics | grep -E '^fmx_drift_(psi|ks|rows)'",
        "In the morning: look at real inputs. Brightness or sharpness: a camera or a pipeline before the service has changed. Class shares or "
        "confidence alone: the world has. Label some rows, then `fmx eval`, and train again where it has lost.",
    ),
    "FmxModelOld": Page(
        "The model was exported longer ago than was agreed. Nothing is broken.",
        "{kubectl} port-forward {pod} 3000 & sleep 2; curl -s localhost:3000/metrics | grep -E '^fmx_model_(info|created)'",
        "Evaluate it on rows of today (`fmx eval`), train again or agree on a longer time (`fmx deploy --model-days`).",
    ),
    "FmxKeyExpires": Page(
        "A key ends within two weeks. One that was rotated out is meant to: look whether it is still used.",
        "FMX_KEYS_FILE=keys/keys.json fmx keys list",
        "Still used: `fmx keys rotate NAME --overlap 7d`, put the file where the service reads it (README.md of this folder), and give its owner "
        "the new key before the old one ends.",
    ),
    "FmxCertificateExpires": Page(
        "The certificate that FMX_TLS_CERTIFICATE names, as it was at the start, ends soon.",
        "openssl s_client -connect HOST:443 </dev/null 2>/dev/null | openssl x509 -noout -subject -enddate",
        "Renew it, then restart the replicas, which read it at the start alone (`{restart}`). Renewed already: the restart is what is missing.",
    ),
    "FmxAuditLost": Page(
        "Requests were answered and are missing in the audit log, as a rule because its disk is full.",
        "{kubectl} exec {pod} -c fmx -- df -h",
        "Make room or mount a larger volume; entries are written again at once. Note from when to when the log has a gap: those entries cannot be "
        "made up.",
    ),
    "FmxLimitsNotShared": Page(
        "Redis cannot be reached. Callers are served; each worker counts rates and quotas alone, so they may get several times their share.",
        "{kubectl} logs {app} --since=15m --prefix | grep -i redis | tail",
        "Bring Redis back; the workers find it within seconds. Changed address or password: the Secret {name}-redis, then a restart.",
    ),
}


def runbook(plan: Plan) -> str:
    """Write RUNBOOK.md: a heading for each alert's name, in the order of the rules."""
    by_name: dict[str, list[Alert]] = {}
    for alert in alerts(plan, in_kubernetes=True):
        by_name.setdefault(alert.name, []).append(alert)
    words = _words(plan)
    pages = []
    for name, rules in by_name.items():
        page = PAGES[name]
        texts = {part: _filled(getattr(page, part), words) for part in ("meaning", "first", "then")}
        pages.append({"name": name, "rules": rules, **texts})
    return render("RUNBOOK.md.j2", plan=plan, pages=pages)


def _words(plan: Plan) -> dict[str, str]:
    kubectl, app = f"kubectl -n {plan.options.namespace}", f"-l app.kubernetes.io/name={plan.name}"
    deployment = f"deployment/{plan.name}"
    words = {
        "kind": "deployment",
        "scaler": {"hpa": "hpa", "keda": "scaledobject,hpa"}.get(plan.options.autoscaler, "deployment"),
        "pod": deployment,
        "roll_back": f"{kubectl} rollout undo {deployment}",
        "restart": f"{kubectl} rollout restart {deployment}",
        "scale": f"{kubectl} scale {deployment} --replicas=N",
    }
    if plan.options.autoscaler == "knative":
        words = {
            "kind": "ksvc",
            "scaler": "podautoscaler",
            "pod": f"$({kubectl} get pods {app} -o name | head -1)",
            "roll_back": f"kn service update {plan.name} -n {plan.options.namespace} --traffic REVISION=100",
            "restart": f"kn service update {plan.name} -n {plan.options.namespace} --annotation restarted=$(date +%s)",
            "scale": f"kn service update {plan.name} -n {plan.options.namespace} --scale-min N",
        }
    return {"kubectl": kubectl, "app": app, "name": plan.name, **words}


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    return text
