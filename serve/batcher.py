"""The micro-batcher: a few threads that decode inputs and run rows. Rows that wait together run together; no row ever waits for company.

Where there is work for everybody, a thread decodes a few inputs and runs them itself, on a session of one thread: nothing is handed over.
A row that is alone runs on every CPU. A batch that fails is run again row by row, once, so a bad row costs its neighbours nothing. What is
past its deadline, or of a request that has already failed, is dropped before it is decoded or run.

How much may be inside is bounded by serve/admission.py, and how rows run on this host is measured in serve/lanes.py.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmx.decoded import Decoded
from fmx.predictor import AnswerCountError
from serve import metrics
from serve.errors import NotReadyError, OverloadedError, too_late
from serve.tracing import Mark

Run = Callable[[np.ndarray], np.ndarray]
Decode = Callable[[bytes], Decoded]
Input = bytes | np.ndarray
CLOSE_SECONDS = 60.0
RETRY_SECONDS = 10
SMOOTHING = 0.1
"""Weight of the newest batch in the pace."""


@dataclass(frozen=True)
class Lanes:
    """In which ways rows may run at once."""

    run: Run
    """As often at once as there are slots."""
    slots: int
    run_alone: Run | None
    """Takes every slot; None where it would be no faster."""
    threads: int
    """They decode, and run what is decoded."""
    batch_rows: int
    """Most rows that run together, unless `bucket_rows` says otherwise of their bucket."""
    decode_rows: int
    """Most inputs that a thread decodes before they run."""
    row_seconds: float
    """Of a slot, for one row of a batch, as measured when the package was opened."""
    bucket_rows: Mapping[int, int] = field(default_factory=dict)
    """By `fmx.decoded.Decoded.bucket`: short texts gain by company, long ones do not."""

    def together(self, bucket: int) -> int:
        """Give how many rows of a bucket run together at most; what is smaller than all that was measured counts as the smallest."""
        if not self.bucket_rows:
            return self.batch_rows
        return self.bucket_rows.get(max(bucket, min(self.bucket_rows)), self.batch_rows)


@dataclass(frozen=True)
class Answered:
    """A request's rows, and their answers: float32 [n, labels], with an embedding [n, labels + width]."""

    rows: list[Decoded]
    answers: np.ndarray


class Pending:
    """The rows of one request: it is answered when all are, and fails when one does."""

    def __init__(self, inputs: Sequence[Input], deadline: float) -> None:
        self.future: Future[Answered] = Future()
        self.inputs = list(inputs)
        self.deadline = deadline
        self.arrived = time.monotonic()
        self.marks: list[Mark] = []
        """What was done for it, row by row."""
        self.waited_s = [0.0] * len(inputs)
        """How long each row has waited, before it was decoded and before it ran."""
        self.decoded_at = [self.arrived] * len(inputs)
        self._rows: list[Decoded | None] = [None] * len(inputs)
        self._answers: list[np.ndarray | None] = [None] * len(inputs)
        self._left = len(inputs)
        self._is_settled = False
        self._lock = threading.Lock()

    def is_wanted(self) -> bool:
        """Say whether somebody still waits for it; a passed deadline fails it."""
        if self._is_settled or self.future.cancelled():
            return False
        if time.monotonic() >= self.deadline:
            self.fail(too_late())
            return False
        return True

    def row(self, place: int) -> Decoded | None:
        """Give a row that was decoded."""
        return self._rows[place]

    def decoded(self, place: int, row: Decoded) -> None:
        """Keep a row, and let go of what it was decoded from."""
        self._rows[place] = row
        self.inputs[place] = b""

    def answer(self, place: int, answer: np.ndarray) -> None:
        """Keep a row's answer; the last one answers the request."""
        with self._lock:
            self._answers[place] = answer
            self._left -= 1
            if self._left or self._is_settled:
                return
            self._is_settled = True
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(Answered([row for row in self._rows if row is not None], np.stack([a for a in self._answers if a is not None])))

    def fail(self, error: BaseException) -> None:
        """Fail the request, unless it was answered or has failed before."""
        with self._lock:
            if self._is_settled:
                return
            self._is_settled = True
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


Place = tuple[Pending, int]
"""One row of a request."""


def _as_exception(error: BaseException) -> Exception:
    """Give what may be raised again where a request is answered."""
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")


def _bucket(place: Place) -> int:
    row = place[0].row(place[1])
    return row.bucket if row is not None else 0


class MicroBatcher:
    """Threads that take the rows of requests in the order of arrival."""

    def __init__(
        self, lanes: Lanes, decode: Decode, row_shape: tuple[int, ...], dtype: np.dtype[Any], most_inside: int = 100_000, large_bytes: int = 2_000_000
    ) -> None:
        """Start the threads.

        Args:
            lanes: in which ways rows run.
            decode: makes a row of an encoded input.
            row_shape: of rows that come as they are.
            dtype: of these.
            most_inside: rows, those of requests that nobody waits for any more included.
            large_bytes: encoded inputs beyond so many bytes are left for other threads to decode.
        """
        self._lanes = lanes
        self._decode = decode
        self._row_shape, self._dtype = row_shape, dtype
        self._most_inside, self._large_bytes = most_inside, large_bytes
        self._waiting: deque[Place] = deque()
        self._ready: deque[Place] = deque()
        self._free = lanes.slots
        self._idle = 0
        self._inside = 0
        self._decode_s, self._run_s = 0.0, lanes.row_seconds
        """The pace of the last rows: a thread's time to decode one, a slot's to run it."""
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"fmx-rows-{number}", daemon=True) for number in range(lanes.threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, inputs: Sequence[Input], deadline: float) -> Pending:
        """Queue the inputs of one request.

        Args:
            inputs: encoded, or rows of the batcher's row shape and dtype.
            deadline: on `time.monotonic`'s clock; what could only run later is dropped.

        Returns:
            What becomes of it; its future holds an `FmxError`, or whatever the model raised, where a row fails.

        Raises:
            NotReadyError: the batcher is closed.
            OverloadedError: rows of requests that nobody waits for any more fill it: a call to the model hangs.
            ValueError: a row of another shape or type; it would spoil a batch.
        """
        pending = Pending(inputs, deadline)
        for place, given in enumerate(inputs):
            if isinstance(given, np.ndarray):
                if given.shape != self._row_shape or given.dtype != self._dtype:
                    raise ValueError(f"row {given.shape} {given.dtype} for {self._row_shape} {self._dtype}")
                pending.decoded(place, Decoded(given, {}))
        with self._changed:
            if self._closed:
                raise NotReadyError("The service is shutting down.", hint="Send the request to another replica.")
            if self._inside + len(inputs) > self._most_inside:
                raise OverloadedError(f"{self._inside} rows are inside; no more are taken.", retry_after_s=RETRY_SECONDS)
            self._waiting.extend((pending, place) for place in range(len(inputs)))
            self._inside += len(inputs)
            self._show_queue()
            self._changed.notify(min(len(inputs), self._idle))
        return pending

    def wait_s(self, rows: int) -> float:
        """Give the seconds in which what is inside and so many rows will have been answered, at the last rows' pace; 0 when nobody is inside."""
        return (self._inside and self._inside + rows) * (self._decode_s / self._lanes.threads + self._run_s / self._lanes.slots)

    def _show_queue(self) -> None:
        metrics.queue_rows.set(len(self._waiting) + len(self._ready))

    def close(self) -> None:
        """Answer what is inside, refuse what comes, and end the threads; a call that hangs is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do: rows that are ready run before others are decoded. None once the batcher is closed and empty."""
        with self._changed:
            while True:
                if self._ready and self._free:
                    return self._claim_run()
                if self._waiting:
                    return self._claim_decoding()
                if self._closed and not self._inside:
                    self._changed.notify_all()
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1

    def _claim_run(self) -> Callable[[], None]:
        if self._lanes.run_alone is not None and self._inside == 1 and self._free == self._lanes.slots:
            run, slots, rows = self._lanes.run_alone, self._lanes.slots, 1
        else:
            runners = min(self._free, 1 + self._idle)
            run, slots, rows = self._lanes.run, 1, min(self._lanes.together(_bucket(self._ready[0])), -(-len(self._ready) // runners))
        self._free -= slots
        batch = self._take_alike(rows)
        self._show_queue()
        if self._ready and self._free and self._idle:
            self._changed.notify()
        return lambda: self._run_batch(run, slots, batch)

    def _take_alike(self, rows: int) -> list[Place]:
        """Take the oldest ready row, and others of its bucket up to so many: a long text must not slow short ones."""
        taken: list[Place] = [self._ready.popleft()]
        others: list[Place] = []
        while self._ready and len(taken) < rows:
            place = self._ready.popleft()
            (taken if _bucket(place) == _bucket(taken[0]) else others).append(place)
        self._ready.extendleft(reversed(others))
        return taken

    def _claim_decoding(self) -> Callable[[], None]:
        """Take a thread's equal share of what waits, at most as much as may run together."""
        share = min(self._lanes.decode_rows, -(-len(self._waiting) // self._lanes.threads))
        taken: list[Place] = []
        size = 0
        while self._waiting and len(taken) < share and size <= self._large_bytes:
            taken.append(self._waiting.popleft())
            size += len(taken[-1][0].inputs[taken[-1][1]])
        return lambda: self._decode_all(taken)

    def _decode_all(self, taken: list[Place]) -> None:
        now = time.monotonic()
        ready: list[Place] = []
        for pending, place in taken:
            pending.waited_s[place] = now - pending.arrived
            pending.marks.append(("queue", pending.arrived, now))
            if self._has_row(pending, place):
                pending.decoded_at[place] = time.monotonic()
                ready.append((pending, place))
        pace = (time.monotonic() - now) / max(1, len(taken))
        with self._changed:
            self._decode_s += SMOOTHING * (pace - self._decode_s)
            self._inside -= len(taken) - len(ready)
            self._ready.extend(ready)
            self._show_queue()

    def _has_row(self, pending: Pending, place: int) -> bool:
        """Decode an input that is still wanted; one that cannot be decoded fails its request, and no other."""
        if not pending.is_wanted():
            return False
        given = pending.inputs[place]
        if pending.row(place) is not None or not isinstance(given, bytes):
            return True
        started = time.monotonic()
        try:
            pending.decoded(place, self._decode(given))
        except BaseException as error:  # whatever a decoder raises belongs to its input; a panic of one in Rust is no Exception
            pending.fail(_as_exception(error))
            return False
        ended = time.monotonic()
        metrics.decode_seconds.observe(ended - started)
        pending.marks.append(("decode", started, ended))
        return True

    def _run_batch(self, run: Run, slots: int, batch: list[Place]) -> None:
        try:
            started = time.monotonic()
            wanted = [(pending, place) for pending, place in batch if pending.is_wanted()]
            if wanted:
                metrics.batch_rows.observe(len(wanted))
                for pending, place in wanted:
                    metrics.queue_seconds.observe(pending.waited_s[place] + started - pending.decoded_at[place])
                self._answer(run, wanted)
                pace = (time.monotonic() - started) / len(wanted)
                if run is self._lanes.run:
                    self._run_s += SMOOTHING * (pace - self._run_s)
        finally:
            with self._changed:
                self._free += slots
                self._inside -= len(batch)
                if self._idle and (self._ready or (self._closed and not self._inside)):
                    self._changed.notify_all()

    def _answer(self, run: Run, batch: list[Place]) -> None:
        rows = [row.values for pending, place in batch if (row := pending.row(place)) is not None]
        started = time.monotonic()
        try:
            answers = run(np.stack(rows) if len(rows) > 1 else rows[0][None])
            if len(answers) != len(batch):
                raise AnswerCountError(len(batch), np.shape(answers))
        except BaseException as error:  # whatever the model raises belongs to the rows that it was raised for
            if isinstance(error, AnswerCountError):
                metrics.batch_shape_mismatch.inc()
            if len(batch) == 1:
                batch[0][0].fail(_as_exception(error))
            else:
                for item in batch:
                    self._answer(run, [item])
            return
        ended = time.monotonic()
        metrics.inference_seconds.observe(ended - started)
        for (pending, place), answer in zip(batch, answers, strict=True):
            pending.marks.append(("inference", started, ended))
            pending.answer(place, answer)
