"""A second variant or package beside the one that answers: it runs a share of the rows in the background, and only how it compares is seen.

Its thread gives way to everybody else's, and what it cannot keep up with is dropped and counted: no request waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time

import numpy as np

from fmx.decoded import Decoded
from fmx.errors import PackageError
from fmx.package import Package, find_package, load_package
from fmx.predictor import PackagePredictor
from serve import metrics
from serve.background import end

NICENESS = 10
WAITING_ROWS = 64
log = logging.getLogger("fmx.serve")


def find_shadow(name: str, package: Package) -> tuple[Package, str | None]:
    """Find what FMX_SHADOW names: a variant of the package that is served, or another package of the same task, labels and input.

    Raises:
        UsageError: it is neither.
        PackageError: it cannot be compared, or is refused.
    """
    variants = [variant.name for variant in package.manifest.variants]
    beside = package if name in variants else load_package(find_package(name))
    compared = ("task", "labels", "input", "output")
    if any(getattr(beside.manifest, field) != getattr(package.manifest, field) for field in compared):
        raise PackageError(
            f"{beside.name} has another task, other labels or another input than {package.name}.", hint="FMX_SHADOW names what can be compared."
        )
    return beside, name if name in variants else None


def open_shadow(name: str, package: Package, device: str) -> PackagePredictor:
    """Open what FMX_SHADOW names. Raises: as `find_shadow`."""
    beside, variant = find_shadow(name, package)
    return PackagePredictor(beside, beside.variant(variant, device), threads=1, device=device)


class Shadow:
    """Runs rows a second time."""

    def __init__(self, predictor: PackagePredictor, share: float) -> None:
        self._predictor = predictor
        self._share = share
        self._due = 0.0
        self._rows: queue.Queue[tuple[Decoded, np.ndarray] | None] = queue.Queue(WAITING_ROWS)
        self._thread = threading.Thread(target=self._work, name="fmx-shadow", daemon=True)
        self._thread.start()

    def offer(self, row: Decoded, probabilities: np.ndarray) -> None:
        """Take a row and its answer, where it is in the share; never waits.

        Args:
            row: of the task.
            probabilities: float32 [*answer_shape] of the task.
        """
        self._due += self._share
        if self._due < 1.0:
            return
        self._due -= 1.0
        try:
            self._rows.put_nowait((row, probabilities))
        except queue.Full:
            metrics.shadow_rows.labels("dropped").inc()

    def close(self) -> None:
        """Run what waits, and end the thread; one that hangs is not waited for."""
        end(self._thread, self._rows)

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # a thread has a niceness of its own on Linux alone
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (taken := self._rows.get()) is not None:
            row, expected = taken
            started = time.perf_counter()
            try:
                found = self._predictor.run(row.values[None])[0]
            except Exception as error:  # whatever the model raises is the shadow's, and nobody's answer
                metrics.shadow_rows.labels("failed").inc()
                log.error("The shadow failed: %s", error)
                continue
            metrics.shadow_seconds.observe(time.perf_counter() - started)
            metrics.shadow_difference.observe(float(np.abs(found - expected).max()))
            metrics.shadow_rows.labels("agreed" if _agree(found, expected, row) else "differed").inc()


def _agree(found: np.ndarray, expected: np.ndarray, row: Decoded) -> bool:
    """Say whether two answers to a row, float32 [*answer_shape], have the same first labels, where it is answered."""
    at = slice(None) if row.answered is None else row.answered
    return bool((found[at].argmax(axis=-1) == expected[at].argmax(axis=-1)).all())
