"""Capacity: the highest rate of requests that one replica holds with its 99th percentile within an objective, found by open-loop load."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fmx import host, storage
from fmx.contract import TextInput
from fmx.errors import BudgetError, SurroundingsError
from fmx.package import Package
from fmx.texts import TOKENIZER_FILE, open_tokenizer, reserved_ids
from serve.scaling.load import Load, Observed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROBE_CONCURRENCY = 8
PROBE_SECONDS = 3.0
STEPS = 6
"""Halvings of the range: its width becomes less than two hundredths of what it was."""
WIDENINGS = 4
MOST_TRIAL_SECONDS = 60.0
LEAST_REQUESTS = 300
"""Of one trial, so that a 99th percentile says something."""

NO_TEXT = "1 2 3"
"""Sent where no golden row says anything: all of them are unknown to the tokenizer."""
CONTENT_TYPES = {
    ".txt": "text/plain",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
"""Of files that are sent, by their ending; others are taken for JPEGs."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Capacity:
    """What was found, and where: a fact of this host."""

    requests_per_second: float
    slo_p99_ms: float
    p99_ms: float
    mean_ms: float
    """At that rate."""
    most_in_closed_loop: float
    """Requests a second with 8 callers, whatever the latency."""
    package_digest: str
    variant: str
    workers: int | None
    """None, as the threads and the machine, of a service that runs elsewhere."""
    threads: int | None
    machine: dict[str, Any] | None
    date: str


def golden_bodies(package: Package) -> list[tuple[bytes, str]]:
    """Turn a package's golden rows back into inputs, for a load when no real ones are given: small JPEGs, or what their tokens say."""
    with np.load(package.folder / "golden.npz", allow_pickle=False) as golden:
        rows = golden["rows"]
    spec = package.manifest.input
    if isinstance(spec, TextInput):
        tokenizer = open_tokenizer(package.folder / TOKENIZER_FILE, spec.tokenizer_sha256)
        around = reserved_ids(tokenizer, spec)
        inputs = [texts for texts in (_texts_in(row.tolist(), tokenizer, around) for row in rows) if len(texts) == spec.texts]
        if spec.texts == 2:
            return [(json.dumps({"pair": pair}).encode(), "application/json") for pair in inputs or [[NO_TEXT, NO_TEXT]]]
        return [(text.encode(), "text/plain") for (text,) in inputs or [[NO_TEXT]]]
    bodies = []
    for row in rows:
        file = io.BytesIO()
        Image.fromarray(row).save(file, "JPEG", quality=90)
        bodies.append((file.getvalue(), "image/jpeg"))
    return bodies


def _texts_in(ids: list[int], tokenizer: Tokenizer, around: set[int]) -> list[str]:
    """Read a row's texts from its tokens: they lie between those that stand around texts; what is unknown is left out."""
    runs = [tokenizer.decode(list(run)).strip() for is_around, run in itertools.groupby(ids, around.__contains__) if not is_around]
    return [text for text in runs if text]


async def measure_capacity(load: Load, slo_p99_ms: float, seconds: float, say: Say) -> tuple[float, Observed, float]:
    """Find the highest rate that is held.

    Args:
        load: on a service that is ready.
        slo_p99_ms: the objective.
        seconds: of each trial; longer where the rate is so low that too few requests would come.
        say: called with a line for each trial.

    Returns:
        The rate, what was observed at it, and the closed loop's requests a second.

    Raises:
        SurroundingsError: the service answers nothing, or refuses the key.
        BudgetError: not even a fiftieth of what it can do is held.
    """
    most = await load.closed_loop(PROBE_CONCURRENCY, PROBE_SECONDS)
    if not most.latencies:
        raise SurroundingsError(f"The service answers no request (statuses: {_statuses(most)}).", hint="Is it ready, and is the key good?")
    say(f"closed loop, {PROBE_CONCURRENCY} callers: {most.goodput:.1f} requests/s")
    low, high = 0.0, 1.15 * most.goodput
    best: tuple[float, Observed] | None = None
    failed = False
    for step in range(STEPS + WIDENINGS):
        if step >= STEPS and low < 0.9 * high:
            break
        if low >= 0.9 * high and not failed:
            high *= 2  # eight callers did not keep it busy
        rate = (low + high) / 2 if step else 0.7 * most.goodput
        observed = await load.open_loop(rate, min(MOST_TRIAL_SECONDS, max(seconds, LEAST_REQUESTS / rate)), seed=step)
        holds = observed.held and observed.latency_ms(0.99) <= slo_p99_ms
        say(f"{rate:.1f} requests/s: p99 {observed.latency_ms(0.99):.1f} ms, {_statuses(observed)}: {'held' if holds else 'not held'}")
        if holds:
            low, best = rate, (rate, observed)
        else:
            high, failed = rate, True
    if best is None:
        raise BudgetError(
            f"No rate is held within {slo_p99_ms:g} ms: already {high:.1f} requests/s are too many.",
            hint="Choose a wider objective with --slo-p99, or a faster variant.",
        )
    return best[0], best[1], most.goodput


def _statuses(observed: Observed) -> str:
    return ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(observed.statuses.items())) or "none"


def keep_capacity(package: Package, capacity: Capacity) -> Path:
    """Write a capacity into the package's measurements, outside its hashes: one file a host."""
    folder = package.folder / "measurements"
    folder.mkdir(exist_ok=True)
    path = folder / f"{host.name()}.json"
    storage.write_text(path, json.dumps({"capacity": asdict(capacity)}, indent=2) + "\n")
    return path


def read_capacity(package: Package, variant: str | None = None, workers: int | None = None) -> Capacity | None:
    """Read the newest capacity that was measured with this very package, on whatever host; None where there is none.

    Args:
        package: its digest must be the one that was measured.
        variant: and of this variant, where it is given.
        workers: and with so many workers, where it is given.
    """
    found = []
    for file in (package.folder / "measurements").glob("*.json"):
        try:
            found.append(Capacity(**json.loads(file.read_text())["capacity"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    fitting = [
        capacity
        for capacity in found
        if capacity.package_digest == package.digest and variant in (None, capacity.variant) and workers in (None, capacity.workers)
    ]
    return max(fitting, key=lambda capacity: capacity.date, default=None)


def bodies_of(files: Sequence[Path]) -> list[tuple[bytes, str]]:
    """Read real inputs. Raises: `SurroundingsError`."""
    try:
        return [(file.read_bytes(), CONTENT_TYPES.get(file.suffix.lower(), "image/jpeg")) for file in files]
    except OSError as error:
        raise SurroundingsError(f"{error.filename} cannot be read ({error.strerror}).", hint="Name files of images or texts.") from error
