"""The `fmx_` metrics. Labels come from closed sets, never from what a client sends.

BentoML gives its workers a shared folder (PROMETHEUS_MULTIPROC_DIR), in which prometheus-client adds up what several workers count.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serve.crew import is_alive

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

requests = Counter("fmx_requests_total", "Requests answered.", ["route", "status"])
offered = Counter("fmx_requests_offered_total", "Requests that callers were let in with, refused ones included.")
capacity = Gauge("fmx_capacity_requests_per_second", "What one replica holds within its objective, as measured.", multiprocess_mode="livemostrecent")
suggested_replicas = Gauge("fmx_suggested_replicas", "Replicas for the load that this one is offered.", multiprocess_mode="livemostrecent")
request_seconds = Histogram("fmx_request_seconds", "From a request's arrival to the end of its answer.", ["route"], buckets=SECONDS)
request_bytes = Histogram("fmx_request_bytes", "Bodies of callers' requests.", buckets=(1e3, 1e4, 1e5, 1e6, 1e7, 1e8))
in_flight = Gauge("fmx_in_flight", "Requests being answered.", multiprocess_mode="livesum")
shed = Counter("fmx_shed_total", "Requests refused to protect the service.", ["reason"])
key_requests = Counter("fmx_key_requests_total", "Requests let in, by the key's id; signed tokens count as one.", ["key"])
key_expires = Gauge(
    "fmx_key_expires_timestamp_seconds", "When a key ends; one that does not has no series.", ["key"], multiprocess_mode="livemostrecent"
)
certificate_expires = Gauge(
    "fmx_certificate_expires_timestamp_seconds", "When FMX_TLS_CERTIFICATE, as it was at the start, ends.", multiprocess_mode="livemostrecent"
)
limits_shared = Gauge("fmx_limits_shared", "1 while rates and quotas are counted in Redis for all replicas.", multiprocess_mode="livemin")
audit_lost = Counter("fmx_audit_lost_total", "Audit entries that could not be written.")
logs_lost = Counter("fmx_logs_lost_total", "Lines of the log that could not be written.")
decode_seconds = Histogram("fmx_decode_seconds", "From an input's bytes to its row.", buckets=SECONDS)
queue_seconds = Histogram("fmx_queue_seconds", "A row's wait before it runs.", buckets=SECONDS)
queue_rows = Gauge("fmx_queue_rows", "Rows waiting.", multiprocess_mode="livesum")
inference_seconds = Histogram("fmx_inference_seconds", "One batch through the model.", buckets=SECONDS)
batch_rows = Histogram("fmx_batch_rows", "Rows that ran together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
batch_shape_mismatch = Counter("fmx_batch_shape_mismatch_total", "Batches that the model gave another number of answers to.")
predictions = Counter("fmx_predictions_total", "Rows answered, by their first label.", ["label"])
confidence = Histogram("fmx_confidence", "Probability of a row's first label.", buckets=tuple(step / 20 for step in range(1, 21)))
drift_psi = Gauge(
    "fmx_drift_psi", "Population stability index of a window against the package's reference.", ["feature"], multiprocess_mode="livemax"
)
drift_ks = Gauge("fmx_drift_ks", "Kolmogorov-Smirnov distance of a window from the package's reference.", ["feature"], multiprocess_mode="livemax")
drift_alarm = Gauge("fmx_drift_alarm", "1 where a shift is large and more than chance.", ["feature"], multiprocess_mode="livemax")
drift_rows = Gauge("fmx_drift_rows", "Sampled rows in the window.", multiprocess_mode="livesum")
shadow_rows = Counter("fmx_shadow_rows_total", "Rows for the shadow: agreed with the answer, differed, failed, or dropped.", ["result"])
shadow_seconds = Histogram("fmx_shadow_seconds", "A row's inference by the shadow.", buckets=SECONDS)
shadow_difference = Histogram(
    "fmx_shadow_difference", "Largest difference of a probability from the answer.", buckets=(0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
)
workers_alive = Gauge("fmx_workers_alive", "Workers of this server that live.", multiprocess_mode="livemin")
workers_wanted = Gauge("fmx_workers_wanted", "Workers that this server should have.", multiprocess_mode="livemax")
uptime = Gauge("fmx_uptime_seconds", "Since the oldest worker was started.", multiprocess_mode="livemax")
cpu_seconds = Counter("fmx_cpu_seconds_total", "CPU time of the workers.")
cpus = Gauge("fmx_cpus", "CPUs that the server may keep busy.", multiprocess_mode="livemax")
memory = Gauge("fmx_memory_bytes", "Resident memory of the workers.", multiprocess_mode="livesum")
gpu_utilisation = Gauge("fmx_gpu_utilisation_ratio", "Share of the time in which a GPU was busy.", ["gpu"], multiprocess_mode="livemax")
gpu_memory_used = Gauge("fmx_gpu_memory_used_bytes", "Memory of a GPU that is in use, by whomever.", ["gpu"], multiprocess_mode="livemax")
gpu_memory = Gauge("fmx_gpu_memory_bytes", "Memory of a GPU.", ["gpu"], multiprocess_mode="livemax")
swaps = Counter("fmx_swaps_total", "Packages that took another's place, were rolled back to, or were refused.", ["result"])
ready = Gauge("fmx_ready_workers", "Workers that are ready.", multiprocess_mode="livesum")
model_info = Gauge("fmx_model_info", "1 for the model that is served.", ["name", "version", "variant", "digest"], multiprocess_mode="livemax")
model_created = Gauge("fmx_model_created_timestamp_seconds", "When the package that is served was exported.", multiprocess_mode="livemostrecent")

requests_of = lru_cache(4096)(requests.labels)
seconds_of = lru_cache(4096)(request_seconds.labels)
predictions_of = lru_cache(65536)(predictions.labels)
"""A series by its labels, looked up for each request: the library's own look-up takes a lock and several times as long."""


def end_series(gauge: Gauge, *labels: str) -> None:
    """Take one series of a `livemostrecent` gauge out of every later `render`: prometheus-client removes none once workers share files."""
    gauge.labels(*labels).set(math.nan)


def render() -> bytes:
    """Give the text exposition, summed over the workers."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return generate_latest(_Unended(REGISTRY))
    _forget_dead_workers(Path(folder))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return generate_latest(_Unended(registry))


class _Unended(Collector):
    """Leaves out what `end_series` ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric


def reserve_space() -> None:
    """Have the disk keep room for this worker's counts: they lie in sparse files mapped into memory, and one that does not fit kills the process.

    Raises:
        OSError: the disk is full.
    """
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder or not hasattr(os, "posix_fallocate"):
        return
    for file in Path(folder).glob(f"*_{os.getpid()}.db"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _forget_dead_workers(folder: Path) -> None:
    """Remove the live gauges of workers that are gone; a killed worker cannot do it itself. What it counted stays counted."""
    for file in folder.glob("gauge_live*_*.db"):
        match = re.search(r"_(\d+)\.db$", file.name)
        if match and not is_alive(int(match[1])):
            file.unlink(missing_ok=True)
