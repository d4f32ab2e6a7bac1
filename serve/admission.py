"""How much may be in a worker at once (images, bytes of bodies); the rest is refused with the time that the drain says."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from serve.errors import OverloadedError

WINDOW_SECONDS = 5.0
"""Over which the drain rate is measured."""
MOST_RETRY_SECONDS = 60


class Admission:
    """Counts in and out. Used from the event loop alone."""

    def __init__(self, limit: int, what: str = "inputs") -> None:
        self._limit, self._what = limit, what
        self._inside = 0
        self._left: deque[tuple[float, int]] = deque()

    @contextmanager
    def admit(self, amount: int) -> Iterator[None]:
        """Hold places for what a request brings.

        Raises:
            OverloadedError: there are not so many; with the seconds until there should be.
        """
        if self._inside + amount > self._limit:
            raise OverloadedError(f"{self._inside:,} {self._what} are waiting; no more are taken.", retry_after_s=self.retry_after())
        self._inside += amount
        try:
            yield
        finally:
            self._inside -= amount
            self._left.append((time.monotonic(), amount))
            self._forget()

    def _forget(self) -> None:
        since = time.monotonic() - WINDOW_SECONDS
        while self._left and self._left[0][0] < since:
            self._left.popleft()

    def retry_after(self) -> int:
        """Give the seconds in which half of what is inside will have left, at the rate of the last seconds: whole, at least 1."""
        self._forget()
        left = sum(amount for _, amount in self._left)
        if not left:
            return 1
        span = max(time.monotonic() - self._left[0][0], 0.1)
        return min(MOST_RETRY_SECONDS, max(1, math.ceil(self._inside / 2 * span / left)))
