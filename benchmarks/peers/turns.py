"""Taking turns: a side trains a chunk of steps, says how long it took, and waits until it is told to go on.

So several trainers that are already warm can be timed in rotation, and one at a time has the processor.
"""

from __future__ import annotations

import os
import sys
import time

MARK = "TURN"


def end_turn(seconds: float, cpu_seconds: float) -> None:
    """Say how long the chunk took and wait for a line; anything but `go` ends the process at once."""
    print(f"\n{MARK} {seconds:.6f} {cpu_seconds:.6f}", flush=True)
    if sys.stdin.readline().strip() != "go":
        os._exit(0)


class Turns:
    """Counts steps and ends a turn after each chunk of them."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0
        self.started = time.perf_counter(), time.process_time()

    def step(self) -> None:
        """Note that an optimiser step is done."""
        self.done += 1
        if self.done == self.steps:
            end_turn(time.perf_counter() - self.started[0], time.process_time() - self.started[1])
            self.done, self.started = 0, (time.perf_counter(), time.process_time())
