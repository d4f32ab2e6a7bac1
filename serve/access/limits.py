"""Rates and daily quotas, counted in this process, or in Redis for all replicas (through the `limits` library).

Without Redis a worker counts what it sees: of several workers each takes its share of a rate or quota, rounded up.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limits import RateLimitItem, RateLimitItemPerDay
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from serve import metrics
from serve.access.caller import Caller
from serve.errors import OverQuotaError

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

STORE_SECONDS = 0.25
"""How long a request waits for Redis before it is counted here."""
PAUSE_SECONDS = 5.0
"""How long a Redis that did not answer is left alone."""
log = logging.getLogger("fmx.serve")


@dataclass(frozen=True)
class Standing:
    """What is left of one limit after a request."""

    name: str
    """rate or quota."""
    limit: int
    window_s: int
    remaining: int
    reset_s: int
    """Until it is whole again."""


def quota_a_day(amount: int | None) -> RateLimitItem | None:
    """Give a daily quota as the library knows it."""
    return None if amount is None else RateLimitItemPerDay(amount)


class Limiter:
    """Counts callers' requests against their rate and quota."""

    def __init__(self, redis_url: str | None, workers: int) -> None:
        self._share = workers
        memory = MemoryStorage()
        self._here: dict[str, Any] = {"rate": SlidingWindowCounterRateLimiter(memory), "quota": FixedWindowRateLimiter(memory)}
        self._shared: dict[str, Any] = {}
        self._is_apart = False
        self._ask_again_at = 0.0
        self._pool: ConnectionPool | None = None
        self._store: Any = None
        if redis_url:
            from limits.aio import strategies as shared
            from redis.asyncio import ConnectionPool  # it takes 8 MB in every process

            self._pool = ConnectionPool.from_url(redis_url, socket_connect_timeout=STORE_SECONDS)
            options: dict[str, Any] = {"implementation": "redispy", "key_prefix": "fmx", "connection_pool": self._pool}
            self._store = storage_from_string(f"async+{redis_url}", **options)
            self._shared = {"rate": shared.SlidingWindowCounterRateLimiter(self._store), "quota": shared.FixedWindowRateLimiter(self._store)}
            metrics.limits_shared.set(1)

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.aclose()

    async def look(self) -> None:
        """See whether Redis is there, without a request that needs it: a scrape shall not tell of what was."""
        if self._store is None or time.monotonic() < self._ask_again_at:
            return
        try:
            async with asyncio.timeout(STORE_SECONDS):
                if not await self._store.check():
                    raise ConnectionError
            self._say_together()
        except Exception as error:  # as in `_hit`
            self._say_apart(error)

    async def take(self, caller: Caller) -> list[Standing]:
        """Count one request of a caller.

        Returns:
            Where the caller stands with each limit; empty where there are none.

        Raises:
            OverQuotaError: a limit is used up; with all standings and the seconds until a request may come again.
        """
        limits = {"rate": caller.rate, "quota": caller.quota}
        standings, over = [], ""
        for name, item in limits.items():
            if item is None:
                continue
            held, reset, remaining = await self._hit(name, item, caller.id)
            wait = max(1, math.ceil(reset - time.time()))
            standings.append(Standing(name, item.amount, item.get_expiry(), max(0, int(remaining)), wait))
            if not held:
                over = name
                break
        if over:
            raise OverQuotaError(over, standings, retry_after_s=standings[-1].reset_s)
        return standings

    async def _hit(self, name: str, item: RateLimitItem, caller: str) -> tuple[bool, float, int]:
        if self._shared and time.monotonic() >= self._ask_again_at:
            try:
                async with asyncio.timeout(STORE_SECONDS):
                    limiter = self._shared[name]
                    held = await limiter.hit(item, caller)
                    stats = await limiter.get_window_stats(item, caller)
                self._say_together()
                return held, stats.reset_time, stats.remaining
            except Exception as error:  # whatever a lost Redis raises: serving goes on, counted here
                self._say_apart(error)
        limiter = self._here[name]
        mine = type(item)(math.ceil(item.amount / self._share), item.multiples)
        held = limiter.hit(mine, caller)
        stats = limiter.get_window_stats(mine, caller)
        return held, stats.reset_time, stats.remaining

    def _say_apart(self, error: Exception) -> None:
        if not self._is_apart:
            log.error("Redis does not answer (%s): rates and quotas are counted in each worker until it does.", type(error).__name__)
        self._is_apart = True
        self._ask_again_at = time.monotonic() + PAUSE_SECONDS
        metrics.limits_shared.set(0)

    def _say_together(self) -> None:
        if self._is_apart:
            log.warning("Redis answers again: rates and quotas are counted for all replicas.")
            metrics.limits_shared.set(1)
        self._is_apart = False


def limit_headers(standings: list[Standing]) -> dict[str, str]:
    """Give the RateLimit fields (draft-ietf-httpapi-ratelimit-headers): a policy and where the caller stands, one item a limit."""
    if not standings:
        return {}
    return {
        "ratelimit-policy": ", ".join(f'"{item.name}";q={item.limit};w={item.window_s}' for item in standings),
        "ratelimit": ", ".join(f'"{item.name}";r={item.remaining};t={item.reset_s}' for item in standings),
    }
