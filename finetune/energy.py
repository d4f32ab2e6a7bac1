"""How much energy a training took, where the machine tells: the CPU package's counter (RAPL), and NVIDIA GPUs' through NVML."""

from __future__ import annotations

from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Reads counters now, and the difference later."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._packages = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)
        self._start = self._cpu()
        self._gpu_start = _gpu_joules()

    def joules(self) -> float | None:
        """Give the energy since the start, or None where no counter can be read."""
        parts = []
        for package, before in self._start.items():
            now, span = _number(package / "energy_uj"), _number(package / "max_energy_range_uj")
            if now is not None:
                parts.append((now - before if now >= before or span is None else now + span - before) / 1e6)
        gpu = _gpu_joules()
        if gpu is not None and self._gpu_start is not None:
            parts.append(gpu - self._gpu_start)
        return round(sum(parts), 1) if parts else None

    def _cpu(self) -> dict[Path, int]:
        read = {package: _number(package / "energy_uj") for package in self._packages}
        return {package: value for package, value in read.items() if value is not None}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _gpu_joules() -> float | None:
    """NVML's total energy counter of the visible GPUs, in joules."""
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1000
    except pynvml.NVMLError:
        return None
