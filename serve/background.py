"""Threads that do something beside answering: they take items from a bounded queue, and nothing that they do is waited for by a request."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Any

CLOSE_SECONDS = 10.0
"""How long one that hangs is waited for."""


def end(thread: threading.Thread, items: queue.Queue[Any]) -> None:
    """Tell a thread by a None that nothing more comes, and wait until it has worked off what waits, or for `CLOSE_SECONDS`."""
    with contextlib.suppress(queue.Full):
        items.put(None, timeout=CLOSE_SECONDS)
    thread.join(CLOSE_SECONDS)
