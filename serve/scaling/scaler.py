"""What a running replica knows of its load: requests offered to it, refused ones included, beside what it can do."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from fmx.package import Package
from serve import metrics
from serve.scaling.capacity import Capacity, read_capacity
from serve.scaling.targets import targets_of
from serve.settings import ServeSettings

WINDOW_SECONDS = 60


class Scaler:
    """Counts a worker's offered requests by the second. Used from the event loop alone."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._seconds: deque[list[int]] = deque()
        """[second, requests]"""
        self._began = time.monotonic()
        self._known: tuple[str, Capacity | None] = ("", None)
        self._looked = float("-inf")

    def offer(self) -> None:
        """Note a request, whatever becomes of it."""
        metrics.offered.inc()
        now = int(time.monotonic())
        if self._seconds and self._seconds[-1][0] == now:
            self._seconds[-1][1] += 1
            return
        self._seconds.append([now, 1])
        while self._seconds[0][0] < now - WINDOW_SECONDS:
            self._seconds.popleft()

    def offered_per_second(self) -> float:
        """Give the rate over the last minute, or since the start where that is shorter."""
        now = time.monotonic()
        count = sum(requests for second, requests in self._seconds if second >= now - WINDOW_SECONDS)
        return count / max(1.0, min(WINDOW_SECONDS, now - self._began))

    def standing(self, package: Package, variant: str) -> dict[str, Any]:
        """Say how this replica stands: offered load of all its workers, taken to be spread evenly, capacity, and how many replicas that wants."""
        offered = self.offered_per_second() * self._settings.workers
        capacity = self._capacity(package, variant)
        answer: dict[str, Any] = {"offered_per_second": round(offered, 3), "capacity": None, "utilisation": None, "suggested_replicas": None}
        if capacity is None:
            return {**answer, "hint": f"fmx capacity {package.name} --workers {self._settings.workers} measures what one replica holds."}
        targets = targets_of(capacity.requests_per_second, capacity.mean_ms / 1e3, self._settings.queue_rows, self._settings.workers)
        replicas = targets.replicas(offered)
        metrics.capacity.set(capacity.requests_per_second)
        metrics.suggested_replicas.set(replicas)
        return {
            **answer,
            "capacity": {
                "requests_per_second": capacity.requests_per_second,
                "slo_p99_ms": capacity.slo_p99_ms,
                "measured": capacity.date,
            },
            "target_per_second": targets.requests_per_second,
            "utilisation": round(offered / capacity.requests_per_second, 4),
            "suggested_replicas": replicas,
        }

    def _capacity(self, package: Package, variant: str) -> Capacity | None:
        """Read what was measured for what is served here, at most once a minute: it may be measured under a running service."""
        now = time.monotonic()
        if self._known[0] != package.digest or now - self._looked > WINDOW_SECONDS:
            self._looked = now
            self._known = (package.digest, read_capacity(package, variant, self._settings.workers))
        return self._known[1]
