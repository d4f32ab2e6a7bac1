"""SIGTERM and Ctrl-C while a training runs: they are taken note of, the step is finished, the state saved, and then the command ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Interruption:
    """Which signal has asked the training to stop, if any."""

    def __init__(self) -> None:
        self.number: int | None = None

    def take(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; a second Ctrl-C does not wait."""
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def stop(self) -> NoReturn:
        """End as the signal would have ended the command: 130 for SIGINT, 143 for SIGTERM."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + int(self.number or signal.SIGTERM))


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Take over SIGTERM and SIGINT for a block; elsewhere than in the main thread signals stay as they are."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption.take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
