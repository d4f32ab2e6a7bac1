"""Drift of what is served: a few rows a second beside the package's reference, in a thread of its own that no request waits for."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fmx.decoded import Decoded
from fmx.drift import EMBEDDING_CENTRE, counts_of, kolmogorov_smirnov, reference_counts, stability_index
from serve import metrics
from serve.background import end

EVALUATE_SECONDS = 5.0
log = logging.getLogger("fmx.serve")


def read_reference(folder: Path, labels: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read a package's reference counts. Raises: OSError, or whatever a damaged file makes of it."""
    return reference_counts(json.loads((folder / "reference.json").read_text()), labels)


def read_centre(folder: Path) -> np.ndarray | None:
    """Read the centre of a reference's embeddings, float32 [width]; None where it has none. Raises: as `read_reference`."""
    centre = json.loads((folder / "reference.json").read_text()).get(EMBEDDING_CENTRE)
    return None if centre is None else np.array(centre, np.float32)


class DriftMonitor:
    """Counts a sample of rows over a window and compares it with the reference."""

    def __init__(
        self,
        reference: dict[str, np.ndarray],
        features: Callable[[np.ndarray], dict[str, np.ndarray]],
        *,
        window_rows: int,
        least_rows: int,
        rows_per_second: float,
    ) -> None:
        """Watch rows whose `features` are the task's."""
        self._reference, self._features = reference, features
        self._window_rows, self._least_rows = window_rows, least_rows
        self._between_s = 1.0 / rows_per_second
        self._next = 0.0
        self._rows: queue.Queue[tuple[Decoded, np.ndarray] | None] = queue.Queue(maxsize=64)
        self._halves = [self._empty(), self._empty()]
        """The last rows: a half that fills, and one before it."""
        self._filled = [0, 0]
        self._alarmed: set[str] = set()
        self._is_shown = False
        self._showing = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="fmx-drift", daemon=True)
        self._thread.start()

    def offer(self, row: Decoded, probabilities: np.ndarray) -> None:
        """Take a row and its answer into the sample, if it is time for one; never waits.

        Args:
            row: of the task; one that came as it is says nothing of its size.
            probabilities: float [classes].
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._between_s
        try:
            self._rows.put_nowait((row, probabilities))
        except queue.Full:
            return  # the thread is behind: the sample is smaller then

    def show(self, *, shown: bool) -> None:
        """Be the one whose findings the metrics show, from the start, or no longer: one package's window must not stand for another's."""
        with self._showing:
            self._is_shown = shown
            metrics.drift_rows.set(0)
            for name in self._reference:  # also at the end: what follows may watch other features, and an alarm would stand for ever
                for gauge in (metrics.drift_psi, metrics.drift_ks, metrics.drift_alarm):
                    gauge.labels(name).set(0)

    def close(self) -> None:
        """Evaluate once more, and end the thread; one that hangs is not waited for."""
        end(self._thread, self._rows)

    def _empty(self) -> dict[str, np.ndarray]:
        return {name: np.zeros_like(counts) for name, counts in self._reference.items()}

    def _work(self) -> None:
        evaluate_at = time.monotonic() + EVALUATE_SECONDS
        is_open = True
        while is_open:
            try:
                taken = self._rows.get(timeout=EVALUATE_SECONDS)
            except queue.Empty:
                self._evaluate()
                continue
            if taken is None:
                is_open = False
            else:
                try:
                    self._count(*taken)
                except Exception:  # of this row alone
                    log.exception("A row could not be compared with the reference")
            if not is_open or time.monotonic() >= evaluate_at:
                self._evaluate()
                evaluate_at = time.monotonic() + EVALUATE_SECONDS

    def _count(self, row: Decoded, probabilities: np.ndarray) -> None:
        if self._filled[0] >= self._window_rows / 2:
            self._halves, self._filled = [self._empty(), self._halves[0]], [0, self._filled[0]]
        counts = self._halves[0]
        features = {**self._features(row.values[None]), **{name: np.array([value]) for name, value in row.facts.items()}}
        for name, found in counts_of(features, probabilities[None]).items():
            if name in counts:
                counts[name] += found
        self._filled[0] += 1

    def _evaluate(self) -> None:
        with self._showing:
            self._show_distances()

    def _show_distances(self) -> None:
        rows = sum(self._filled)
        if not self._is_shown:
            return
        metrics.drift_rows.set(rows)
        if rows < self._least_rows:
            return
        alarmed = set()
        for name, reference in self._reference.items():
            counts = self._halves[0][name] + self._halves[1][name]
            index, is_notable = stability_index(reference, counts)
            metrics.drift_psi.labels(name).set(index)
            metrics.drift_ks.labels(name).set(kolmogorov_smirnov(reference, counts))
            metrics.drift_alarm.labels(name).set(1 if is_notable else 0)
            if is_notable:
                alarmed.add(name)
        for name in sorted(alarmed - self._alarmed):
            log.warning("Drift: the %s of the last %d sampled rows is far from the reference.", name.replace("_", " "), rows)
        self._alarmed = alarmed
