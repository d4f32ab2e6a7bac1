"""How a worker is doing, as metrics: CPU time, memory, uptime, and the GPU's load and memory where one is used."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from fmx import host
from serve import metrics

log = logging.getLogger("fmx.serve")


class Vitals:
    """Updates the gauges when told to."""

    def __init__(self, *, workers: int, gpu: bool) -> None:
        self._began = time.monotonic()
        self._cpu_counted = 0.0
        self._gpus = _gpus() if gpu else []
        metrics.workers_wanted.set(workers)
        metrics.cpus.set(host.usable_cpus())

    def update(self) -> None:
        """Read everything once."""
        metrics.uptime.set(time.monotonic() - self._began)
        used = time.process_time()
        metrics.cpu_seconds.inc(used - self._cpu_counted)
        self._cpu_counted = used
        metrics.memory.set(_resident_bytes())
        for number, (nvml, handle) in enumerate(self._gpus):
            with contextlib.suppress(nvml.NVMLError):  # lost for a moment, or for good: the other gauges go on
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                metrics.gpu_utilisation.labels(str(number)).set(nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
                metrics.gpu_memory_used.labels(str(number)).set(memory.used)
                metrics.gpu_memory.labels(str(number)).set(memory.total)


def _gpus() -> list[tuple[Any, Any]]:
    import pynvml  # BentoML brings it

    try:
        pynvml.nvmlInit()
        return [(pynvml, pynvml.nvmlDeviceGetHandleByIndex(number)) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        log.warning("The GPU's load and memory are not shown (%s).", error)
        return []


def _resident_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
