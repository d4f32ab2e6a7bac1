"""Latency and throughput of any ONNX file on this host: what `fmx bench` prints. Inputs are noise; no accuracy is judged here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmx.errors import FmxError, PackageError, UsageError, first_line
from fmx.progress import progress
from fmx.runtime import open_session

if TYPE_CHECKING:
    import onnxruntime

NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
REPEATS = 5
WARM_UP_SECONDS = 0.3
LEAST_CALLS = 5


@dataclass(frozen=True)
class Timing:
    """Single calls at one batch size; milliseconds."""

    batch: int
    calls: int
    minimum_ms: float
    median_ms: float
    p90_ms: float
    p99_ms: float
    rows_per_second: float
    """At the median."""
    spread: float
    """Noise: the repeats' medians, largest minus smallest over their median."""

    def as_json(self) -> dict[str, Any]:
        """Give the fields."""
        return asdict(self)


def example_feed(session: onnxruntime.InferenceSession, batch: int, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Make inputs for a session from noise: bytes for uint8, normal numbers for floats, 0 and 1 for other integers.

    Args:
        session: opened.
        batch: for each input's first axis where that is dynamic.
        sizes: of other dynamic axes, by name.
        seed: of the noise.

    Raises:
        UsageError: another axis is dynamic and has no size.
        PackageError: an input of a type that cannot be made up.
    """
    random = np.random.default_rng(seed)
    feed = {}
    for given in session.get_inputs():
        if given.type not in NUMPY_TYPES:
            raise PackageError(f"Input {given.name} is of type {given.type}, for which no example can be made.", hint="Numbers can.")
        shape = [_size(given.name, axis, size, batch, sizes) for axis, size in enumerate(given.shape)]
        kind = NUMPY_TYPES[given.type]
        if kind is np.uint8:
            feed[given.name] = random.integers(0, 256, shape, dtype=np.uint8)
        elif np.issubdtype(kind, np.floating):
            feed[given.name] = random.normal(size=shape).astype(kind)
        else:
            feed[given.name] = random.integers(0, 2, shape).astype(kind)
    return feed


def _size(name: str, axis: int, size: int | str | None, batch: int, sizes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    if size in sizes:
        return sizes[str(size)]
    if axis == 0:
        return batch
    raise UsageError(f"Axis {axis} of input {name} is dynamic ({size}).", hint=f"Say how long it is: --dim {size}=128")


def time_session(
    session: onnxruntime.InferenceSession, batches: Sequence[int], sizes: Mapping[str, int] | None = None, seconds: float = 1.0
) -> list[Timing]:
    """Time single calls.

    Args:
        session: opened.
        batches: batch sizes; taken in turns in each repeat, so that a disturbance meets all of them.
        sizes: see `example_feed`.
        seconds: for each batch size, over all repeats, after warming up.

    Raises:
        UsageError, PackageError: see `example_feed`; a fixed batch axis of another size.
    """
    feeds = {batch: example_feed(session, batch, sizes or {}) for batch in batches}
    for batch, feed in feeds.items():
        if any(len(value) != batch for value in feed.values() if value.ndim):
            raise UsageError(f"The batch of this file is fixed, and not {batch}.", hint="Give --batch the size that the file has.")
        until = time.perf_counter() + WARM_UP_SECONDS
        session.run(None, feed)
        while time.perf_counter() < until:
            session.run(None, feed)
    times: dict[int, list[list[float]]] = {batch: [] for batch in batches}
    with progress("timing", REPEATS * len(batches), "rounds") as advance:
        for _ in range(REPEATS):
            for batch, feed in feeds.items():
                times[batch].append(_calls(session, feed, seconds / REPEATS))
                advance(1)
    return [_summary(batch, repeats) for batch, repeats in times.items()]


def _calls(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray], seconds: float) -> list[float]:
    found: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(found) < LEAST_CALLS:
        started = time.perf_counter()
        session.run(None, feed)
        found.append(time.perf_counter() - started)
    return found


def _summary(batch: int, repeats: list[list[float]]) -> Timing:
    calls = 1e3 * np.concatenate(repeats)
    medians = np.array([1e3 * np.median(repeat) for repeat in repeats])
    median = float(np.median(calls))
    return Timing(
        batch=batch,
        calls=len(calls),
        minimum_ms=round(float(calls.min()), 4),
        median_ms=round(median, 4),
        p90_ms=round(float(np.percentile(calls, 90)), 4),
        p99_ms=round(float(np.percentile(calls, 99)), 4),
        rows_per_second=round(1e3 * batch / median, 2),
        spread=round(float((medians.max() - medians.min()) / np.median(medians)), 4),
    )


def bench_file(
    path: Path, batches: Sequence[int], *, threads: int, device: str = "cpu", sizes: Mapping[str, int] | None = None, seconds: float = 1.0
) -> list[Timing]:
    """Time an ONNX file. Raises: see `fmx.runtime.open_session` and `time_session`."""
    try:
        return time_session(open_session(path, threads=threads, device=device), batches, sizes, seconds)
    except FmxError:
        raise
    except Exception as error:  # onnxruntime raises what its native part says
        raise PackageError(f"{path.name} cannot be run: {first_line(error)}", hint=f"fmx check {path} says more.") from error
