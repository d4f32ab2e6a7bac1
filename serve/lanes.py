"""In which ways this host runs rows best: measured in a moment when a package is opened, never guessed.

On a CPU, rows of many callers run fastest on sessions of one thread side by side, and a row that is alone on one session of every thread.
On a GPU one session takes batches, while the CPUs decode.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from threading import Barrier, Thread

import numpy as np

from fmx.contract import Variant
from fmx.gpu import SIZES
from fmx.package import Package, task_of
from fmx.predictor import PackagePredictor
from fmx.runtime import choose_device
from serve.batcher import Lanes, Run
from serve.settings import ServeSettings

LARGE_MODEL_BYTES = 400_000_000
"""Of a larger model there is one session: two would hold its weights twice."""
MEASURE_SECONDS = 0.06
"""Of one way of running rows."""
WORTHWHILE = 1.05
"""A second session must be so much faster for a lone row, and a batch for many."""
SPARE = 1
"""Threads beyond the CPUs, on a CPU: one decodes while the others run; no more run than there are CPUs."""
CPU_BATCHES = (4,)
"""Larger ones gain next to nothing on a CPU, and hold 8 MB a row of ResNet-18 in each thread."""
GPU_BATCH_SECONDS = 0.05
"""No batch that takes longer is formed on a GPU: whoever comes next waits for it."""
GPU_SLOTS = 1
"""A GPU takes one batch after another; the next one gathers meanwhile."""


@dataclass(frozen=True)
class Opened:
    """A package's sessions, and how they are used."""

    predictor: PackagePredictor
    lanes: Lanes
    words: str
    """What was measured and chosen."""


def open_lanes(package: Package, settings: ServeSettings, like: Opened | None = None) -> Opened:
    """Open a package's variant for this host, and measure how to run it.

    Args:
        package: whose every hash was checked.
        settings: of the service.
        like: how an earlier package runs; one of the same input and variant runs the same way, unmeasured.

    Raises:
        PackageError: no variant fits, or ONNX Runtime cannot open it.
        SurroundingsError: the device is not there.
    """
    device = choose_device(settings.device)
    variant = package.variant(settings.variant, device)
    threads = settings.worker_threads
    task = task_of(package)  # one for both sessions

    def opened(threads_inside: int) -> PackagePredictor:
        spinning = threads_inside > 1 and settings.workers == 1  # only then are the cores ours while a row is alone
        return PackagePredictor(package, variant, threads=threads_inside, device=device, spinning=spinning, task=task)

    if device != "cpu":
        return _on_gpu(opened(1), settings)
    if threads > 1 and variant.bytes > LARGE_MODEL_BYTES:
        batch_rows = settings.batch_rows or max(CPU_BATCHES)
        whole = opened(threads)
        seconds = _seconds_a_call(whole.answer, whole.task.example())
        words = f"one session of {threads} threads, for the model is large; batches up to {batch_rows} rows"
        return Opened(whole, Lanes(whole.answer, 1, None, threads, batch_rows, batch_rows, seconds), words)
    if like is not None and _is_like(like, package, variant):
        whole_run = opened(threads).answer if like.lanes.run_alone is not None else None
        single = opened(1)
        return Opened(single, replace(like.lanes, run=single.answer, run_alone=whole_run), "as the package before it")
    return _on_cpu(opened(1), opened(threads) if threads > 1 else None, settings)


def _is_like(like: Opened, package: Package, variant: Variant) -> bool:
    before = like.predictor
    same_size = 0.5 < variant.bytes / before.variant.bytes < 2.0
    return same_size and variant.name == before.variant.name and package.manifest.input == before.contract.input


def _on_cpu(single: PackagePredictor, whole: PackagePredictor | None, settings: ServeSettings) -> Opened:
    row, threads = single.task.example(), settings.worker_threads
    alone_ms = 1e3 * _seconds_a_call(single.answer, row)
    words = f"a lone row {alone_ms:.2f} ms on 1 thread"
    if whole is not None:
        whole_ms = 1e3 * _seconds_a_call(whole.answer, row)
        words += f", {whole_ms:.2f} on {threads}"
        if whole_ms * WORTHWHILE > alone_ms:
            whole = None
    most, rates = _best_batch(single.answer, row, settings)
    words += f"; many on {threads} x 1: {_told(rates)}"
    bucket_rows = _rows_of_buckets(single, settings) if settings.batch_rows is None else {}
    if bucket_rows:
        most = max(bucket_rows.values())
    words += f"; batches up to {', '.join(map(str, bucket_rows.values())) or most} rows" + " by length" * (len(bucket_rows) > 1)
    run_alone = whole.answer if whole is not None else None
    return Opened(single, Lanes(single.answer, threads, run_alone, threads + SPARE, most, most, threads / max(rates.values()), bucket_rows), words)


def _told(rates: dict[int, float]) -> str:
    return ", ".join(f"{rate:.0f} rows/s in batches of {rows}" for rows, rate in rates.items())


def _rows_of_buckets(single: PackagePredictor, settings: ServeSettings) -> dict[int, int]:
    """Find how many rows of each bucket run together best; empty where there is one bucket. What gains nothing twice gains nothing when longer."""
    examples = single.task.examples()
    found: dict[int, int] = {}
    for bucket, example in examples.items() if len(examples) > 1 else ():
        gave_up = [*found.values()][-2:] == [1, 1]
        found[bucket] = 1 if gave_up else _best_batch(single.answer, example, settings)[0]
    return found


def _on_gpu(predictor: PackagePredictor, settings: ServeSettings) -> Opened:
    row = predictor.task.example(whole=True)  # memory and time must suffice for the longest
    taken = _seconds_a_call(predictor.answer, row)
    chosen, words = 1, f"a lone row {1e3 * taken:.2f} ms"
    for rows in SIZES[1:]:
        seconds = _seconds_a_call(predictor.answer, np.repeat(row, rows, axis=0))
        words += f", {rows} in {1e3 * seconds:.2f}"
        if seconds <= GPU_BATCH_SECONDS:
            chosen, taken = rows, seconds
    batch_rows = settings.batch_rows or chosen
    lanes = Lanes(predictor.answer, GPU_SLOTS, None, max(2, settings.worker_threads), batch_rows, 1, GPU_SLOTS * taken / chosen)
    return Opened(predictor, lanes, f"{words}; batches up to {batch_rows}")


def _best_batch(run: Run, row: np.ndarray, settings: ServeSettings) -> tuple[int, dict[int, float]]:
    """Find the batch with the most rows a second when every slot runs one; as set, where it is set."""
    rates = {rows: _rows_a_second(run, np.repeat(row, rows, axis=0), settings.worker_threads) for rows in (1, *CPU_BATCHES)}
    best = 1
    for rows in CPU_BATCHES:
        if rates[rows] > WORTHWHILE * rates[best]:
            best = rows
    return settings.batch_rows or best, rates


def _seconds_a_call(run: Run, rows: np.ndarray) -> float:
    run(rows)
    taken: list[float] = []
    until = time.perf_counter() + MEASURE_SECONDS
    while time.perf_counter() < until or len(taken) < 2:
        started = time.perf_counter()
        run(rows)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _rows_a_second(run: Run, rows: np.ndarray, threads: int) -> float:
    """Run batches side by side in threads."""
    barrier, counts = Barrier(threads + 1), [0] * threads
    until = [float("inf")]  # set once everybody has begun

    def work(number: int) -> None:
        barrier.wait()
        while time.perf_counter() < until[0] or not counts[number]:
            run(rows)
            counts[number] += 1

    run(rows)  # what fails here would leave the others waiting
    workers = [Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    until[0] = started + MEASURE_SECONDS
    for worker in workers:
        worker.join()
    return sum(counts) * len(rows) / (time.perf_counter() - started)
