"""What a worker serves: the verified package, its predictor, the threads that decode, the batcher that runs. It says whether it is ready."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmx.errors import FmxError
from fmx.predictor import PackagePredictor
from fmx.signature import verify_signature
from serve import metrics
from serve.admission import Admission
from serve.batcher import MicroBatcher
from serve.drift import DriftMonitor, read_reference
from serve.errors import NotReadyError, too_late
from serve.settings import ServeSettings, package_path

log = logging.getLogger("fmx.serve")


OPENING = "The package is being opened."
DRAINING = "The worker is draining."


@dataclass(frozen=True)
class _Opened:
    predictor: PackagePredictor
    batcher: MicroBatcher
    drift: DriftMonitor | None


class Engine:
    """Opens the package in the background, so that probes are answered meanwhile, and answers inputs once it is ready."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._decoders = ThreadPoolExecutor(settings.worker_threads, thread_name_prefix="fmx-decode")
        self._inside = Admission(settings.queue_rows)
        self._opened: _Opened | None = None
        self._draining = False
        self._refused = OPENING
        self._opener = threading.Thread(target=self._open, name="fmx-open", daemon=True)

    def start(self) -> None:
        """Begin to open the package."""
        self._opener.start()

    def drain(self) -> None:
        """Say from now on that the worker is not ready; requests are still answered."""
        self._draining = True
        metrics.ready.set(0)

    def close(self) -> None:
        """Finish what waits and end the threads."""
        self.drain()
        if self._opener.ident is not None:
            self._opener.join()
        if self._opened is not None:
            self._opened.batcher.close()
            if self._opened.drift is not None:
                self._opened.drift.close()
        self._decoders.shutdown()

    @property
    def why_not_ready(self) -> str:
        """Why no new traffic should come to this worker; empty when it is ready."""
        if self._draining:
            return DRAINING
        return "" if self._opened else self._refused

    def opened(self) -> PackagePredictor:
        """Give what is served. Raises: `NotReadyError`."""
        return self._ready().predictor

    def _ready(self) -> _Opened:
        if self._opened is None:
            raise NotReadyError(self._refused, hint="Wait until /readyz answers 200.")
        return self._opened

    async def infer(self, inputs: Sequence[bytes | np.ndarray], deadline: float) -> tuple[PackagePredictor, np.ndarray]:
        """Answer the inputs of one request, in order.

        Args:
            inputs: encoded, or rows of the task's shape, uint8.
            deadline: on `time.monotonic`'s clock.

        Returns:
            Who answered, which may be another by the time the answer is written, and the probabilities: float32 [n, labels].

        Raises:
            InputError, TooLargeError: an input that cannot be read; nothing of the request is then run.
            NotReadyError, OverloadedError, DeadlineError: see serve/errors.py.
        """
        opened = self._ready()
        with self._inside.admit(len(inputs)):
            rows = await self._rows(opened.predictor, inputs, deadline)
            futures = [asyncio.wrap_future(future) for future in opened.batcher.submit(rows, deadline)]
            answers = await _within(futures, deadline)
        for row, probabilities in zip(rows, answers, strict=True):
            first = int(probabilities.argmax())
            metrics.predictions.labels(opened.predictor.contract.labels[first]).inc()
            metrics.confidence.observe(float(probabilities[first]))
            if opened.drift is not None:
                opened.drift.observe(row, probabilities)
        return opened.predictor, np.stack(answers)

    async def _rows(self, predictor: PackagePredictor, inputs: Sequence[bytes | np.ndarray], deadline: float) -> list[np.ndarray]:
        """Decode what is encoded, in the decoders' threads."""
        loop = asyncio.get_running_loop()
        rows: list[np.ndarray | None] = [None if isinstance(given, bytes) else given for given in inputs]
        encoded = [place for place, row in enumerate(rows) if row is None]
        decoding = [loop.run_in_executor(self._decoders, self._decode, predictor, inputs[place], deadline) for place in encoded]
        for place, row in zip(encoded, await _within(decoding, deadline), strict=True):
            rows[place] = row
        return [row for row in rows if row is not None]

    def _decode(self, predictor: PackagePredictor, data: Any, deadline: float) -> np.ndarray:
        if time.monotonic() >= deadline:
            raise too_late()
        started = time.perf_counter()
        row = predictor.task.row(data, self._settings.max_pixels)
        metrics.decode_seconds.observe(time.perf_counter() - started)
        return row

    def _open(self) -> None:
        settings = self._settings
        try:
            folder = package_path(settings)
            if settings.verify_key is not None:
                verify_signature(folder, public_key=settings.verify_key)
            predictor = PackagePredictor.open(folder, variant=settings.variant, threads=settings.worker_threads, device=settings.device)
            difference = predictor.replay_golden_rows()
            drift = self._open_drift(predictor)
        except FmxError as error:
            self._refused = f"{error.message} {error.hint}".strip()
            log.error("The package is refused: %s", self._refused)
            return
        except Exception as error:  # whatever it is, a probe must say that this worker will not become ready
            self._refused = f"The package cannot be opened ({type(error).__name__})."
            log.exception("The package cannot be opened")
            return
        batcher = MicroBatcher(predictor.run, predictor.task.row_shape, batch_rows=settings.batch_rows, queue_rows=settings.queue_rows)
        name, version, variant = predictor.package.name, predictor.package.manifest.version, predictor.variant.name
        metrics.model_info.labels(name, version, variant, predictor.package.digest).set(1)
        self._opened = _Opened(predictor, batcher, drift)
        if not self._draining:
            metrics.ready.set(1)
        log.info("Serving %s %s, %s, %d threads; golden rows agree to %.1e.", name, version, variant, settings.worker_threads, difference)

    def _open_drift(self, predictor: PackagePredictor) -> DriftMonitor | None:
        settings = self._settings
        if settings.drift == "off" or not (predictor.package.folder / "reference.json").is_file():
            return None  # an imported file that was never evaluated has no reference
        window = {"window_rows": settings.drift_window_rows, "least_rows": settings.drift_least_rows}
        try:
            reference = read_reference(predictor.package.folder, predictor.contract.labels)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("Drift is not watched: reference.json cannot be read (%s).", type(error).__name__)
            return None
        return DriftMonitor(reference, **window, rows_per_second=settings.drift_rows_per_second)


async def _within(futures: list[asyncio.Future[np.ndarray]], deadline: float) -> list[np.ndarray]:
    """Wait for a request's rows until its deadline; what has not been begun by then is taken back."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await asyncio.gather(*futures)
    except TimeoutError as error:
        raise too_late() from error
    finally:
        for future in futures:
            future.cancel()  # where one failed, the others' work must not go on behind an answer that is given
