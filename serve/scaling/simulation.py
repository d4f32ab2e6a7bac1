"""What an autoscaler would do with a trace of traffic: Kubernetes' HPA, minute by minute, with replicas that take time to start.

The algorithm is the documented one: every 15 seconds wanted = ceil(current replicas x metric / target), left alone within a tolerance of 10 %;
growth by at most 100 % or 4 pods a period, shrinking only to the largest wish of the last five minutes. A replica past its capacity answers
at its capacity; what comes on top is refused, and not within the objective.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PERIOD_SECONDS = 15
TOLERANCE = 0.1
STABILISATION_SECONDS = 300
CPU_TARGET = 0.7

Rule = Literal["capacity", "cpu"]


@dataclass(frozen=True)
class Outcome:
    """How a rule did on a trace."""

    within_objective: float
    """Share of the requests."""
    replica_hours: float
    most_replicas: int
    refused: float
    """Share of the requests."""


@dataclass(frozen=True)
class Replica:
    """What one replica can do."""

    capacity: float
    """Requests a second at the objective."""
    most: float
    """Requests a second with every core busy, whatever the latency."""
    target: float
    """Requests a second that it should be given."""


def simulate(trace: Sequence[float], replica: Replica, rule: Rule, *, start_seconds: float, least: int, most: int) -> Outcome:
    """Replay a trace.

    Args:
        trace: requests a second, one number a period of 15 seconds.
        replica: measured.
        rule: `capacity` scales on offered requests; `cpu` on the share of the cores that is busy, as Kubernetes does without being told.
        start_seconds: from the wish for a replica to its first answer.
        least: replicas.
        most: replicas.
    """
    running, starting = least, deque[float]()
    wishes: deque[int] = deque([least] * (STABILISATION_SECONDS // PERIOD_SECONDS), maxlen=STABILISATION_SECONDS // PERIOD_SECONDS)
    good = total = seconds = dropped = 0.0
    peak = least
    for step, offered in enumerate(trace):
        now = step * PERIOD_SECONDS
        while starting and starting[0] <= now:
            starting.popleft()
            running += 1
        share = offered / running
        total += offered
        good += min(offered, running * replica.capacity) if share <= replica.capacity else _good_beyond(share, replica) * running
        dropped += max(0.0, offered - running * replica.most)
        seconds += (running + len(starting)) * PERIOD_SECONDS
        peak = max(peak, running + len(starting))
        wish = _wish(rule, running, offered, replica)
        wanted = _allowed(wish, running + len(starting), wishes, least, most)
        for _ in range(wanted - running - len(starting)):
            starting.append(now + start_seconds)
        if wanted < running + len(starting):
            while starting and wanted < running + len(starting):
                starting.pop()
            running = max(1, min(running, wanted))
    if not total:
        return Outcome(1.0, seconds / 3600, peak, 0.0)
    return Outcome(good / total, seconds / 3600, peak, dropped / total)


def _good_beyond(share: float, replica: Replica) -> float:
    """Give the requests a second within the objective of a replica past its capacity: a queue builds up, and most of them wait too long."""
    past = (share - replica.capacity) / max(replica.most - replica.capacity, 1e-9)
    return replica.capacity * max(0.0, 1.0 - past)


def _wish(rule: Rule, running: int, offered: float, replica: Replica) -> int:
    share = offered / running
    ratio = share / replica.target if rule == "capacity" else min(1.0, share / replica.most) / CPU_TARGET
    return running if abs(ratio - 1.0) <= TOLERANCE else math.ceil(running * ratio)


def _allowed(wish: int, current: int, wishes: deque[int], least: int, most: int) -> int:
    """Bound a wish as the HPA's default behaviour does."""
    wishes.append(wish)
    if wish > current:
        wish = min(wish, max(2 * current, current + 4))
    elif wish < current:
        wish = max(wish, min(current, max(wishes)))
    return max(least, min(most, wish))
