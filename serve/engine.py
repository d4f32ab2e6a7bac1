"""What a worker answers with: the package that is served now, the one before it, and whether new traffic should come here at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fmx import storage
from fmx.decoded import Decoded
from fmx.errors import FmxError, TooLargeError
from fmx.package import MANIFEST
from fmx.predictor import PackagePredictor
from fmx.tasks import Answer as TaskAnswer
from fmx.tasks import ImageClassification, Piece, Task
from serve import metrics
from serve.admission import Admission
from serve.batcher import Answered
from serve.errors import NotReadyError, OverloadedError, RefusedError, too_late
from serve.served import Served, open_served
from serve.settings import ServeSettings, package_path
from serve.tracing import Mark

log = logging.getLogger("fmx.serve")


Told = TypeVar("Told")
LARGE_TEXT_BYTES = 500
"""Of texts together, from which on reading them takes a millisecond or more."""
OPENING = "The package is being opened."
DRAINING = "The worker is draining."


@dataclass(frozen=True)
class Answer:
    """Of one request."""

    predictor: PackagePredictor
    """Who answered, which may be another by the time the answer is written."""
    predictions: list[dict[str, Any]]
    """What is told of each input; none where none are asked for."""
    probabilities: np.ndarray
    """float32 [rows, *answer_shape] of the task; an input that is cut is several rows."""
    embeddings: np.ndarray
    """float32 [inputs, width], each of length 1; of width 0 where the package has none"""
    marks: list[Mark]
    """What was done, and when."""


OBJECTIVE_SHARE = 0.7
"""Of the objective, that may be spent waiting: the rest is the row's own time, and what the pace of the last rows does not know."""


class Engine:
    """Opens packages in the background, so that probes and requests are answered meanwhile."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._inside = Admission(settings.queue_rows)
        self._served: Served | None = None
        self._before: Served | None = None
        """What was served before, kept for a rollback."""
        self._draining = False
        self._refused = OPENING
        self.pinned: Path | None = None
        """The folder that somebody wished for, in place of where the settings lead to."""
        self.missing = ""
        """Set where workers beside this one are gone: the server is not what it should be."""
        self._changing = threading.Lock()
        self._opener = threading.Thread(target=self._open, name="fmx-open", daemon=True)

    def start(self) -> None:
        """Begin to open the package."""
        self._opener.start()

    def open_again(self) -> None:
        """Open the package after it was refused; blocks meanwhile."""
        with self._changing:
            if self._served is None:
                self._open()

    @property
    def is_refused(self) -> bool:
        """Whether the package was opened and is not served."""
        return self._served is None and not self._opener.is_alive() and self._opener.ident is not None

    def drain(self) -> None:
        """Say from now on that the worker is not ready; requests are still answered."""
        self._draining = True
        metrics.ready.set(0)

    def close(self) -> None:
        """Finish what waits and end the threads."""
        self.drain()
        if self._opener.ident is not None:
            self._opener.join()
        with self._changing:
            for served in (self._served, self._before):
                if served is not None:
                    served.close()

    @property
    def why_not_ready(self) -> str:
        """Why no new traffic should come to this worker; empty when it is ready."""
        if self._draining:
            return DRAINING
        return self.missing if self._served else self._refused

    @property
    def is_open(self) -> bool:
        """Whether a package is served."""
        return self._served is not None

    @property
    def task(self) -> str:
        """The task of what is served; of images before."""
        served = self._served
        return served.predictor.task.name if served is not None else ImageClassification.name

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Name, version, variant and digest of what is served; empty before."""
        served = self._served
        return served.names if served is not None else ("", "", "", "")

    def now(self) -> Served:
        """Give what is served. Raises: `NotReadyError`."""
        if self._served is None:
            raise NotReadyError(self._refused, hint="Wait until /readyz answers 200.")
        return self._served

    async def infer(
        self, inputs: Sequence[bytes | np.ndarray], deadline: float, served: Served | None = None, *, top_k: int = 1, predicts: bool = True
    ) -> Answer:
        """Answer the inputs of one request, in order.

        Args:
            inputs: encoded, or rows of the task's shape, uint8.
            deadline: on `time.monotonic`'s clock.
            served: who is to answer, where the inputs were read for them; a package is served on for a while after a swap.
            top_k: labels a prediction.
            predicts: the labels are asked for, and so counted and watched for drift.

        Raises:
            InputError, TooLargeError: an input that cannot be read, or is more rows than are taken; the request then has no answer.
            NotReadyError, OverloadedError, DeadlineError: see serve/errors.py.
        """
        served = served or self.now()
        self._check_wait(served, len(inputs))
        cut: list[list[Piece]] = []
        if served.predictor.task.cuts:
            with self._inside.admit(len(inputs)):
                cut = await self._cut(inputs, served.predictor.task, deadline)
            self._check_wait(served, sum(map(len, cut)))
        rows = [piece.data for pieces in cut for piece in pieces] if cut else inputs
        with self._inside.admit(len(rows)):
            pending = served.batcher.submit(rows, deadline)
            answered = await _within(pending.future, deadline)
        probabilities, embeddings = served.predictor.parted(answered.answers)
        told = await _told(inputs, cut, served.predictor.task, probabilities, top_k, deadline) if predicts else []
        if told:
            _count(served, answered.rows, probabilities, embeddings, told)
        return Answer(served.predictor, [answer.prediction for answer in told], probabilities, _of_inputs(embeddings, cut), pending.marks)

    async def _cut(self, inputs: Sequence[bytes | np.ndarray], task: Task, deadline: float) -> list[list[Piece]]:
        """Cut inputs into what is one row each. Raises: `InputError`, `TooLargeError`, `DeadlineError`."""
        limit = self._settings.limit_of(task.noun)
        cut = await _aside(inputs, lambda: [task.pieces(data, limit) for data in inputs if isinstance(data, bytes)], deadline)
        rows = sum(map(len, cut))
        if rows > self._settings.queue_rows:
            what = f"The request is {rows} windows of the model, more than the {self._settings.queue_rows} rows that are taken at once."
            raise TooLargeError(what, hint="Send the text in parts.")
        return cut

    def check_room(self) -> None:
        """Refuse before a body is read what would be refused after it: under overload that is most of the work. Raises: `OverloadedError`."""
        if self._served is not None:
            self._check_wait(self._served, 1)

    def _check_wait(self, served: Served, rows: int) -> None:
        """Refuse at once what would be answered later than the objective. Raises: `OverloadedError`."""
        wait_s = served.batcher.wait_s(rows)
        if wait_s > OBJECTIVE_SHARE * served.objective_s:
            waits = f"Answers take {1e3 * wait_s:.0f} ms already, of {1e3 * served.objective_s:.0f} that are the objective."
            raise OverloadedError(waits, retry_after_s=self._inside.retry_after())

    def swap(self) -> None:
        """Serve, from the next request on, what is to be served now; what was served is kept.

        Whoever is inside is answered by what they came to. Nothing changes where the new package is refused, or is the one that is served.
        Blocks while the package is opened; not for the event loop.

        Raises:
            FmxError: there is no such package, or it is refused.
        """
        with self._changing:
            now = self.now()
            try:
                folder = self._target()
                if _is_still(now, folder):
                    return
                if self._before is not None and _is_still(self._before, folder):
                    self._serve(self._before, before=now)
                    metrics.swaps.labels("rolled_back").inc()
                    log.warning("Rolled back to %s %s.", *self.names[:2])
                    return
                served = open_served(folder, self._settings, like=now)
            except Exception as error:
                metrics.swaps.labels("refused").inc()
                log.error("The new package is refused, and the old one served on: %s", error)
                raise
            if served.names == now.names:
                served.close()
                return
            if self._before is not None:
                self._before.close()
            self._serve(served, before=now)
            metrics.swaps.labels("swapped").inc()

    @property
    def folder_before(self) -> Path:
        """Where lies what was served before the last swap. Raises: `RefusedError` where nothing was."""
        if self._before is None:
            raise RefusedError("There is nothing to go back to.", hint="Only the package before the last swap is kept.")
        return self._before.predictor.package.folder

    def _target(self) -> Path:
        return self.pinned if self.pinned is not None and self.pinned.is_dir() else package_path(self._settings)

    def _serve(self, served: Served, before: Served | None) -> None:
        if before is not None:
            metrics.model_info.labels(*before.names).set(0)
        metrics.model_info.labels(*served.names).set(1)
        with contextlib.suppress(ValueError):  # a manifest's date is any text
            metrics.model_created.set(datetime.fromisoformat(served.predictor.package.manifest.created).timestamp())
        for one, is_shown in ((before, False), (served, True)):
            if one is not None and one.drift is not None:
                one.drift.show(shown=is_shown)
        self._served, self._before = served, before

    def _open(self) -> None:
        try:
            served = open_served(self._target(), self._settings)
        except FmxError as error:
            self._refused = f"{error.message} {error.hint}".strip()
            log.error("The package is refused: %s", self._refused)
            return
        except Exception as error:  # whatever it is, a probe must say that this worker will not become ready
            self._refused = f"The package cannot be opened ({type(error).__name__})."
            log.exception("The package cannot be opened")
            return
        self._serve(served, before=None)
        if not self._draining:
            metrics.ready.set(1)


async def _told(
    inputs: Sequence[bytes | np.ndarray], cut: list[list[Piece]], task: Task, probabilities: np.ndarray, top_k: int, deadline: float
) -> list[TaskAnswer]:
    """Make an answer of every input's rows."""
    if not cut:
        return [task.answer(b"", (), [chances], top_k) for chances in probabilities]
    ends = np.cumsum([len(pieces) for pieces in cut])
    texts = [data for data in inputs if isinstance(data, bytes)]

    def answers() -> list[TaskAnswer]:
        asked = zip(texts, cut, ends, strict=True)
        return [task.answer(data, pieces, list(probabilities[end - len(pieces) : end]), top_k) for data, pieces, end in asked]

    return await _aside(inputs, answers, deadline)


async def _aside(inputs: Sequence[bytes | np.ndarray], work: Callable[[], Told], deadline: float) -> Told:
    """Do what reads the inputs once more: in a thread where they are large, so that probes and others' deadlines are not held up.

    Raises:
        DeadlineError: the thread has not done it by the deadline, on `time.monotonic`'s clock.
    """
    if sum(map(len, inputs)) < LARGE_TEXT_BYTES:
        return work()
    try:
        return await asyncio.wait_for(asyncio.to_thread(work), max(0.0, deadline - time.monotonic()))
    except TimeoutError as error:
        raise too_late() from error


def _of_inputs(vectors: np.ndarray, cut: list[list[Piece]]) -> np.ndarray:
    """Give the embedding of every input, float32 [inputs, width], from those of its rows: the direction of their mean."""
    if not cut or len(cut) == len(vectors):
        return vectors
    parts = np.split(vectors, np.cumsum([len(pieces) for pieces in cut])[:-1])
    means = np.stack([part.mean(axis=0) for part in parts])
    return np.asarray(means / np.maximum(1e-12, np.linalg.norm(means, axis=1, keepdims=True)))


def _count(served: Served, rows: Sequence[Decoded], probabilities: np.ndarray, embeddings: np.ndarray, told: list[TaskAnswer]) -> None:
    """Take note of rows and answers: in the metrics, for drift and for the shadow."""
    for answer in told:
        for label, score in served.predictor.task.counted(answer.prediction):
            metrics.predictions_of(label).inc()
            if score is not None:
                metrics.confidence.observe(score)
    summaries = [summary for answer in told for summary in answer.summaries]
    for row, chances, summary, embedding in zip(rows, probabilities, summaries, embeddings, strict=True):
        served.observe(row, chances, summary, embedding)


def _is_still(served: Served, folder: Path) -> bool:
    """Say whether a folder holds what was opened from it."""
    package = served.predictor.package
    try:
        return package.folder.resolve() == folder.resolve() and storage.sha256_file(folder / MANIFEST) == package.digest
    except OSError:
        return False


async def _within(future: Future[Answered], deadline: float) -> Answered:
    """Wait for a request's rows until its deadline; what has not been begun by then is taken back."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: Future[Answered]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set, waiter)

    future.add_done_callback(wake)
    timer = loop.call_later(max(0.0, deadline - time.monotonic()), _set, waiter)
    try:
        await waiter
        if not future.done():
            raise too_late()
        return future.result()
    finally:
        timer.cancel()
        future.cancel()


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
