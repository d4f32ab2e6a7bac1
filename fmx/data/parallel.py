"""Work on many files at once, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fmx.host import usable_cpus
from fmx.progress import progress


def in_threads(work: Callable[[int], None], count: int, what: str) -> None:
    """Call `work` for 0 to `count` - 1; hashing and Pillow's decoding release the interpreter's lock, so threads are enough."""
    pool = ThreadPoolExecutor(usable_cpus())
    try:
        with progress(what, count) as advance:
            for _ in pool.map(work, range(count)):
                advance(1)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
