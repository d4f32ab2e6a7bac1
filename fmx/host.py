"""What the machine is: CPU flags, usable CPUs, library versions. Read when asked, never at import."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

REPORTED_LIBRARIES = (
    "fmx-toolkit",
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx",
    "onnxscript",
    "torch",
    "torchvision",
    "torch-pruning",
    "timm",
    "transformers",
    "tokenizers",
    "scikit-learn",
    "peft",
    "bentoml",
)
VNNI_FLAGS = ("avx512_vnni", "avx_vnni")


@functools.lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Return the CPU's instruction-set flags as Linux names them; empty where they cannot be read."""
    return frozenset(_cpuinfo("flags", "Features").split())


@functools.lru_cache(maxsize=1)
def cpu_name() -> str:
    """Return the CPU's marketing name, or the architecture where there is none."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(*keys: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def usable_cpus() -> int:
    """Return how many CPUs this process may keep busy: its affinity, cut to the cgroup's quota (v2, then v1), at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, int(_cgroup_quota() or affinity)))


def _cgroup_quota() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def library_versions(names: Iterable[str] = REPORTED_LIBRARIES) -> dict[str, str]:
    """Return the installed versions of libraries, without importing them; those not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def name() -> str:
    """Return this host's name as a file may be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", platform.node()).strip("-.")[:64] or "host"


def describe() -> dict[str, str | int]:
    """Describe the host in a few facts, without its name: a package must not say whose machine it was made on."""
    return {"cpu": cpu_name(), "cpus": usable_cpus(), "vnni": int(has_vnni()), "system": platform.system(), "machine": platform.machine()}


def has_vnni() -> bool:
    """Say whether the CPU multiplies int8 without saturating (AVX512-VNNI or AVX-VNNI)."""
    return any(flag in cpu_flags() for flag in VNNI_FLAGS)


def now() -> str:
    """Return the present time, UTC, to the second, in ISO 8601."""
    return written(datetime.now(UTC))


def written(when: datetime) -> str:
    """Write a time, of whatever zone, as `now` does. Raises: OverflowError."""
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def misplaced_rooms() -> list[str]:
    """Return those of our four packages that would be imported from elsewhere than beside `fmx` (a user's own `export/`, say)."""
    import importlib.util

    beside = Path(__file__).resolve().parent.parent
    misplaced = []
    for name in ("finetune", "export", "serve"):
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded else importlib.util.find_spec(name)
        origin = spec.origin if spec else None
        if origin is None or Path(origin).resolve().parent.parent != beside:
            misplaced.append(origin or name)
    return misplaced
