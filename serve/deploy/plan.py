"""The plan of a deployment: every name and number that the written files share, computed once from package, settings and measured capacity."""

from __future__ import annotations

import math
import platform
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fmx.errors import PackageError, UsageError
from fmx.package import Package
from fmx.tasks import open_task
from serve.metrics import SECONDS
from serve.scaling.capacity import Capacity, read_capacity
from serve.scaling.targets import Targets, targets_of
from serve.settings import ServeSettings

Device = Literal["cpu", "cuda"]
Autoscaler = Literal["hpa", "keda", "knative", "none"]
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
AUTOSCALERS: tuple[Autoscaler, ...] = ("hpa", "keda", "knative", "none")

PORT = 3000
USER = 10001
"""Numeric, as Kubernetes' runAsNonRoot must be able to tell, and above any that a host gives out."""
SRV, STATE = "/srv", "/var/lib/fmx"
"""Where code and package lie in the image, and the one folder beside /tmp that is written to."""
KEYS_FOLDER = "/etc/fmx/keys"

CARRIED = (
    "queue_rows",
    "batch_rows",
    "timeout_seconds",
    "objective_ms",
    "variant",
    "pages",
    "cors_origins",
    "drift",
    "drift_window_rows",
    "drift_least_rows",
    "drift_rows_per_second",
    "body_seconds",
    "drain_seconds",
    "max_body_bytes",
    "bodies_bytes",
    "max_pixels",
    "max_characters",
    "max_inputs",
)
"""Settings that shape a replica: those set here are set in the written files, which are computed with them."""

MASTER_BYTES, WORKER_BYTES, CUDA_BYTES = 200_000_000, 300_000_000, 2_000_000_000
"""What BentoML's supervisor and a worker without a model take, rounded up, and what CUDA's libraries add to a worker."""
BYTES_A_CHARACTER = 400
"""Of a text that is tokenised, and what is cut off of it."""
BYTES_A_PIXEL = 12
"""Of an image that is decoded: Pillow's largest ordinary case, a picture with transparency laid onto a white page."""

_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/-]{0,200}(:[0-9]{1,5}/[a-z0-9._/-]{1,200})?(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True)
class Options:
    """What a person chose."""

    name: str
    namespace: str
    image: str | None
    device: Device
    workers: int | None
    autoscaler: Autoscaler
    least: int
    most: int
    headroom: float
    prometheus: str
    redis: bool
    model_days: int


@dataclass(frozen=True)
class Plan:
    """One deployment."""

    options: Options
    package: Package
    settings: ServeSettings
    workers: int
    threads: int
    """Of each worker."""
    capacity: Capacity | None
    targets: Targets | None
    """None together with the capacity: with `--autoscaler none` alone."""

    @property
    def name(self) -> str:
        """Of the Deployment, the Service and everything else."""
        return self.options.name

    @property
    def image(self) -> str:
        """The image's name and tag."""
        return self.options.image or f"{self.name}:{self.package.manifest.version}"

    @property
    def python(self) -> str:
        """The Python that the pinned versions were installed with: major and minor."""
        return ".".join(platform.python_version_tuple()[:2])

    @property
    def cpus(self) -> int:
        """Cores that a replica keeps busy."""
        return self.workers * self.threads

    @property
    def grace_seconds(self) -> int:
        """From SIGTERM to SIGKILL: the drain, the slowest request, and five seconds to end in."""
        return math.ceil(self.settings.drain_seconds + self.settings.timeout_seconds) + 5

    @property
    def spool_bytes(self) -> int:
        """Room in /tmp for multipart files, as many as the settings let in."""
        return self.workers * self.settings.bodies_bytes + 64_000_000

    @property
    def memory_bytes(self) -> tuple[int, int]:
        """What a replica holds when it is idle, and at most with everything that the settings let in at once.

        A model counts four times: two sessions hold it, and each packs its weights anew.
        """
        model = 4 * max(variant.bytes for variant in self.package.manifest.variants)
        idle = WORKER_BYTES + model + (CUDA_BYTES if self.options.device == "cuda" else 0)
        contract = self.package.manifest.contract
        task = open_task(contract.task, contract.labels, contract.input)
        rows = self.settings.queue_rows * task.example().nbytes
        an_input = BYTES_A_PIXEL * self.settings.max_pixels if task.noun == "image" else BYTES_A_CHARACTER * self.settings.max_characters
        busy = idle + rows + self.settings.bodies_bytes + self.threads * an_input
        return MASTER_BYTES + self.workers * idle, MASTER_BYTES + self.workers * busy

    @property
    def variables(self) -> dict[str, str]:
        """The `FMX_...` variables that the written numbers stand and fall with."""
        given = {name: getattr(self.settings, name) for name in CARRIED if name in self.settings.model_fields_set}
        shape: dict[str, str | int] = {"device": self.options.device, "workers": self.workers, "threads": self.threads}
        if self.capacity is not None and self.capacity.variant != _variants_for(self.package, self.options.device)[0]:
            shape["variant"] = self.capacity.variant  # it is what was measured
        return {f"FMX_{name.upper()}": str(value).removesuffix(".0") for name, value in {**shape, **given}.items()}

    @property
    def latency_objective_s(self) -> float | None:
        """The latency that 99 % of the predictions must hold: the measured objective, or the next boundary that `fmx_request_seconds` counts at."""
        if self.capacity is None:
            return None
        return next((edge for edge in SECONDS if edge >= self.capacity.slo_p99_ms / 1e3 - 1e-9), SECONDS[-1])

    @property
    def queue_target(self) -> int | None:
        """Rows that may wait in a replica: what it works off within half of the objective, at its capacity."""
        if self.capacity is None:
            return None
        return max(1, math.floor(self.capacity.requests_per_second * self.capacity.slo_p99_ms / 2e3))

    @property
    def labels(self) -> dict[str, str]:
        """What every object of this deployment is found by."""
        return {"app.kubernetes.io/name": self.name}


def plan_deployment(package: Package, settings: ServeSettings, options: Options) -> Plan:
    """Compute a plan.

    Args:
        package: loaded, so verified.
        settings: of the service, from this environment.
        options: a person's.

    Raises:
        PackageError: no capacity was measured for so many workers on such a device.
    """
    wanted = options.workers or (settings.workers if "workers" in settings.model_fields_set else None)
    capacity = _capacity_of(package, options.device, wanted, settings.variant)
    if capacity is None and options.autoscaler != "none":
        raise PackageError(
            f"The capacity of {package.name}{f' with {wanted} workers' if wanted else ''} was not measured.",
            hint=f"fmx capacity {package.name} --slo-p99 100{f' --workers {wanted}' if wanted else ''}, or go without: --autoscaler none",
        )
    if capacity is not None and settings.threads not in (None, capacity.threads):
        raise PackageError(
            f"The capacity of {package.name} was measured with {capacity.threads} threads, and FMX_THREADS is {settings.threads}.",
            hint=f"fmx capacity {package.name} --slo-p99 {capacity.slo_p99_ms:g} measures it anew.",
        )
    workers = wanted or (capacity.workers if capacity and capacity.workers else 1)
    threads = capacity.threads if capacity and capacity.threads else settings.model_copy(update={"workers": workers}).worker_threads
    targets = None
    if capacity is not None:
        targets = targets_of(capacity.requests_per_second, capacity.mean_ms / 1e3, settings.queue_rows, workers, options.headroom)
    return Plan(options, package, settings, workers, threads, capacity, targets)


def _variants_for(package: Package, device: Device) -> list[str]:
    """Give the variants that a device would be served, best first; fp32 alone serves a GPU too."""
    own: list[str] = [variant.name for variant in package.manifest.variants if variant.requires.device == device]
    return own or [variant.name for variant in package.manifest.variants]


def _capacity_of(package: Package, device: Device, workers: int | None, variant: str | None) -> Capacity | None:
    """Find the newest capacity of the variant that is set, or of any that the device would be served."""
    names = [variant] if variant is not None else _variants_for(package, device)
    found = [capacity for name in names if (capacity := read_capacity(package, name, workers)) is not None]
    return max(found, key=lambda capacity: capacity.date, default=None)


def read_options(**given: Any) -> Options:
    """Check what a person chose. Raises: `UsageError`, with every fault named."""
    faults: list[str] = []
    for option in ("name", "namespace"):
        if not _LABEL.fullmatch(given[option]):
            faults.append(f"--{option} is {given[option]!r}: lower-case letters, digits and dashes, at most 50, a letter first")
    if given["image"] is not None and not _IMAGE.fullmatch(given["image"]):
        faults.append(f"--image is {given['image']!r}: such as registry.example.com/fmx:1")
    for option, known in (("device", DEVICES), ("autoscaler", AUTOSCALERS)):
        if given[option] not in known:
            faults.append(f"--{option} is {given[option]!r}: {', '.join(known)}")
    if given["most"] < given["least"]:
        faults.append(f"--max, {given['most']}, is below --min, {given['least']}")
    port = re.search(r":(\d{1,5})(?:/|$)", given["prometheus"])
    if not _URL.fullmatch(given["prometheus"]) or (port and not 1 <= int(port[1]) <= 65535):
        faults.append(f"--prometheus is {given['prometheus']!r}: such as http://prometheus.monitoring:9090")
    if faults:
        raise UsageError("; ".join(faults) + ".", hint="fmx deploy --help")
    return Options(**given)


def not_carried(settings: ServeSettings) -> list[str]:
    """Name the settings of this environment that the written files do not hold."""
    elsewhere = {*CARRIED, "package", "workers", "threads", "device", "keys_file", "redis_url"}
    return sorted(f"FMX_{name.upper()}" for name in settings.model_fields_set - elsewhere)


def facts(plan: Plan) -> dict[str, Any]:
    """Say what the plan was computed from, and what came out, for `deploy.json`."""
    request, limit = plan.memory_bytes
    return {
        "package": {"name": plan.package.name, "version": plan.package.manifest.version, "digest": plan.package.digest},
        "options": asdict(plan.options),
        "capacity": asdict(plan.capacity) if plan.capacity else None,
        "targets": {**asdict(plan.targets), "queue_rows": plan.queue_target} if plan.targets else None,
        "replica": {"workers": plan.workers, "threads": plan.threads, "memory_bytes": [request, limit], "grace_seconds": plan.grace_seconds},
        "variables": plan.variables,
    }
