"""Work on many files at once, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fmx.host import usable_cpus
from fmx.progress import progress

_MOST_TASKS = 10_000
"""Above this count a task is several calls: a future costs more than the hash of a short text."""


def in_threads(work: Callable[[int], None], count: int, what: str) -> None:
    """Call `work` for 0 to `count` - 1; hashing and Pillow's decoding release the interpreter's lock, so threads are enough."""
    step = 1 + count // _MOST_TASKS

    def work_on(start: int) -> int:
        calls = range(start, min(start + step, count))
        for index in calls:
            work(index)
        return len(calls)

    pool = ThreadPoolExecutor(usable_cpus())
    try:
        with progress(what, count) as advance:
            for done in pool.map(work_on, range(0, count, step)):
                advance(done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
