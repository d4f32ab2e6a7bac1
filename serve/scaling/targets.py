"""From a measured capacity to the numbers that autoscalers want: computed, never typed.

With C requests a second at the objective and L seconds of mean latency there, a replica is given T = u C, so that bursts and a replica
that starts find room; by Little's law N = round(u C L) requests are then under way in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HEADROOM = 0.7


@dataclass(frozen=True)
class Targets:
    """For one replica."""

    requests_per_second: float
    concurrency: int
    """Requests under way at that rate."""
    hard_limit: int
    """Requests that a replica itself takes in before it answers 429."""

    def replicas(self, offered: float) -> int:
        """Give how many replicas an offered rate wants, at least one."""
        return max(1, math.ceil(offered / self.requests_per_second - 1e-9))


def targets_of(requests_per_second: float, mean_latency_s: float, queue_rows: int, workers: int = 1, headroom: float = HEADROOM) -> Targets:
    """Compute the targets of a replica.

    Args:
        requests_per_second: its capacity at the objective.
        mean_latency_s: there.
        queue_rows: `FMX_QUEUE_ROWS`.
        workers: `FMX_WORKERS`.
        headroom: the share of the capacity that is used.
    """
    return Targets(
        requests_per_second=math.floor(1000 * headroom * requests_per_second) / 1000 or requests_per_second,
        concurrency=max(1, round(headroom * requests_per_second * mean_latency_s)),
        hard_limit=queue_rows * workers,
    )
