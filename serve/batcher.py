"""The micro-batcher: rows that wait together run together, and no row ever waits for company.

A batch that fails is run again row by row, once, so a bad row costs its neighbours nothing. A row past its deadline is dropped before it
runs. The queue is bounded; what it cannot take is refused with the time that the measured drain rate says.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from serve import metrics
from serve.admission import MOST_RETRY_SECONDS
from serve.errors import NotReadyError, OverloadedError, too_late

Run = Callable[[np.ndarray], np.ndarray]


@dataclass
class _Waiting:
    row: np.ndarray
    deadline: float
    arrived: float
    answer: Future[np.ndarray] = field(default_factory=Future)


class MicroBatcher:
    """One thread that runs the model on whatever rows wait, in the order of arrival."""

    def __init__(self, run: Run, row_shape: tuple[int, ...], *, batch_rows: int, queue_rows: int) -> None:
        self._run = run
        self._row_shape = row_shape
        self._batch_rows = batch_rows
        self._queue_rows = queue_rows
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._rows_per_second = 0.0
        self._thread = threading.Thread(target=self._work, name="fmx-batcher", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[np.ndarray], deadline: float) -> list[Future[np.ndarray]]:
        """Queue the rows of one request, all or none.

        Args:
            rows: each of the batcher's row shape, uint8.
            deadline: on `time.monotonic`'s clock; a row that could only run later is dropped.

        Returns:
            One future a row: its probabilities, or an `FmxError`.

        Raises:
            OverloadedError: the queue is full.
            NotReadyError: the batcher is closed.
            ValueError: a row of another shape or type; it would spoil a batch.
        """
        for row in rows:
            if row.shape != self._row_shape or row.dtype != np.uint8:
                raise ValueError(f"row {row.shape} {row.dtype} for {self._row_shape} uint8")
        now = time.monotonic()
        with self._changed:
            if self._closed:
                raise NotReadyError("The service is shutting down.", hint="Send the request to another replica.")
            if len(self._waiting) + len(rows) > self._queue_rows:
                raise OverloadedError(f"{len(self._waiting)} rows are waiting; no more are taken.", retry_after_s=self._retry_after())
            waiting = [_Waiting(row, deadline, now) for row in rows]
            self._waiting.extend(waiting)
            metrics.queue_rows.set(len(self._waiting))
            self._changed.notify()
        return [item.answer for item in waiting]

    def close(self) -> None:
        """Run what waits, refuse what comes, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _retry_after(self) -> int:
        if self._rows_per_second <= 0:
            return 1
        return min(MOST_RETRY_SECONDS, max(1, math.ceil(len(self._waiting) / self._rows_per_second)))

    def _work(self) -> None:
        while batch := self._next_batch():
            started = time.monotonic()
            for item in batch:
                metrics.queue_seconds.observe(started - item.arrived)
            metrics.batch_rows.observe(len(batch))
            self._answer(batch)
            seconds = time.monotonic() - started
            metrics.inference_seconds.observe(seconds)
            rate = len(batch) / max(seconds, 1e-6)
            self._rows_per_second = rate if self._rows_per_second <= 0 else 0.9 * self._rows_per_second + 0.1 * rate

    def _next_batch(self) -> list[_Waiting]:
        """Wait for rows and take up to a batch of those still wanted; empty only when closed and nothing waits."""
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                taken = [self._waiting.popleft() for _ in range(min(self._batch_rows, len(self._waiting)))]
                metrics.queue_rows.set(len(self._waiting))
            wanted = [item for item in taken if _still_wanted(item)]
            if wanted:
                return wanted

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            answers = self._run(np.stack([item.row for item in batch]))
            if len(answers) != len(batch):
                raise ValueError(f"the model gave {len(answers)} answers to {len(batch)} rows")
        except Exception as error:  # whatever the model raises belongs to the rows that it was raised for
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                for item in batch:
                    self._answer([item])
            return
        for item, answer in zip(batch, answers, strict=True):
            item.answer.set_result(answer)


def _still_wanted(item: _Waiting) -> bool:
    if not item.answer.set_running_or_notify_cancel():
        return False
    if time.monotonic() >= item.deadline:
        item.answer.set_exception(too_late())
        return False
    return True
