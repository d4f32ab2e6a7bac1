"""Timing several calls beside each other, so that whatever disturbs the machine disturbs all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from fmx.progress import Advance

ROUNDS = 15
ROUND_SECONDS = 0.05
WARM_UP_CALLS = 3
LEAST_CALLS = 3


def interleaved(
    calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, advance: Advance = lambda count: None, seconds: float = ROUND_SECONDS
) -> dict[str, list[float]]:
    """Time calls in turns.

    Args:
        calls: by name.
        rounds: turns of each.
        advance: told of each round.
        seconds: of a turn, at least; the first call of a turn is not counted.

    Returns:
        The seconds of single calls, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(WARM_UP_CALLS):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or len(times[name]) < LEAST_CALLS:
                started = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - started)
        advance(1)
    return times
