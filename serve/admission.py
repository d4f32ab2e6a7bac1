"""How many images may be in a worker at once, from their decoding to their answer; the rest is refused with the time that the drain says."""

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
    """Counts images in and out. Used from the event loop alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._left: deque[tuple[float, int]] = deque()

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Hold places for a request's images.

        Raises:
            OverloadedError: there are not so many; with the seconds until there should be.
        """
        if self._inside + images > self._limit:
            raise OverloadedError(f"{self._inside} images are waiting; no more are taken.", retry_after_s=self._retry_after())
        self._inside += images
        try:
            yield
        finally:
            self._inside -= images
            self._left.append((time.monotonic(), images))
            self._forget()

    def _forget(self) -> None:
        since = time.monotonic() - WINDOW_SECONDS
        while self._left and self._left[0][0] < since:
            self._left.popleft()

    def _retry_after(self) -> int:
        """Give the seconds in which half of what is inside will have left, at the rate of the last seconds: whole, at least 1."""
        self._forget()
        left = sum(images for _, images in self._left)
        if not left:
            return 1
        span = max(time.monotonic() - self._left[0][0], 0.1)
        return min(MOST_RETRY_SECONDS, max(1, math.ceil(self._inside / 2 * span / left)))
