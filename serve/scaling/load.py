"""Load on a service from outside: closed loop, and open loop with Poisson arrivals, where a latency counts from the intended time of sending,
so that a slow service cannot hide behind a client that waits for it (coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from fmx.errors import SurroundingsError

PATH = "/v1/predict"
REQUEST_SECONDS = 30.0


@dataclass
class Observed:
    """What a load came to."""

    seconds: float
    """From the first intended sending to the last answer."""
    latencies: list[float] = field(default_factory=list)
    """Seconds, of requests that were answered 200."""
    statuses: dict[int, int] = field(default_factory=dict)
    """Answers by status; 0 is a connection that failed."""

    @property
    def held(self) -> bool:
        """Whether every request was answered 200."""
        return set(self.statuses) == {200}

    def latency_ms(self, share: float) -> float:
        """Give a quantile of the latencies; infinity where none was answered."""
        return 1e3 * float(np.quantile(self.latencies, share)) if self.latencies else float("inf")

    @property
    def mean_s(self) -> float:
        """The mean latency."""
        return float(np.mean(self.latencies)) if self.latencies else float("inf")

    @property
    def goodput(self) -> float:
        """Requests a second that were answered 200."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def count(self, status: int, latency: float) -> None:
        """Note an answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.latencies.append(latency)


Send = Callable[[int], Awaitable[int]]
"""Sends the request of a number, and gives the status of its answer; 0 for none."""


async def closed_loop(send: Send, callers: int, seconds: float) -> Observed:
    """Keep so many requests under way."""
    observed, started = Observed(seconds), time.perf_counter()

    async def call(number: int) -> None:
        while (sent := time.perf_counter()) < started + seconds:
            observed.count(await send(number), time.perf_counter() - sent)
            number += callers

    await asyncio.gather(*(call(number) for number in range(callers)))
    observed.seconds = time.perf_counter() - started
    return observed


async def open_loop(send: Send, rate: float, seconds: float, seed: int = 0) -> Observed:
    """Send at Poisson times, whatever comes back; a latency counts from the intended time of sending.

    Args:
        send: one request.
        rate: requests a second.
        seconds: of sending.
        seed: of the arrival times.
    """
    times = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, max(1, round(rate * seconds))))
    observed, started, sending = Observed(0.0), time.perf_counter() + 0.05, []

    async def call(number: int, intended: float) -> None:
        observed.count(await send(number), time.perf_counter() - intended)

    for number, at in enumerate(times):
        wait = started + at - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        sending.append(asyncio.create_task(call(number, started + float(at))))
    await asyncio.gather(*sending)
    observed.seconds = time.perf_counter() - started
    return observed


class Load:
    """Sends encoded inputs, in turn, to one service."""

    def __init__(self, url: str, key: str, bodies: Sequence[tuple[bytes, str]]) -> None:
        self._root = url.rstrip("/")
        self._url = self._root + PATH
        self._key = key
        self._bodies = bodies
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Load:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(headers=headers, connector=connector, timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS))
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def model(self) -> dict[str, str]:
        """Ask one request, and say what answers it: `name`, `version`, `variant` and the package's `digest`. Raises: `SurroundingsError`."""
        try:
            if self._session is None:
                raise SurroundingsError("The load is not open.")
            body, kind = self._bodies[0]
            async with self._session.post(self._url, data=body, headers={"Content-Type": kind}) as answer:
                content = await answer.json(content_type=None)
                if answer.status != 200:
                    raise SurroundingsError(f"The service answers {answer.status}: {str(content)[:200]}", hint="Is it ready, and is the key good?")
                found: dict[str, str] = content["model"]
            async with self._session.get(f"{self._root}/v2/models/{found['name']}") as answer:
                return {**found, "digest": (await answer.json(content_type=None))["parameters"]["digest"]}
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise SurroundingsError(
                f"{self._root} does not answer as fmx does ({type(error).__name__}).", hint="fmx serve starts a service."
            ) from error

    async def closed_loop(self, callers: int, seconds: float) -> Observed:
        """Keep so many requests under way."""
        return await closed_loop(self._send, callers, seconds)

    async def open_loop(self, rate: float, seconds: float, seed: int = 0) -> Observed:
        """Send at Poisson times, whatever comes back."""
        return await open_loop(self._send, rate, seconds, seed)

    async def _send(self, number: int) -> int:
        body, kind = self._bodies[number % len(self._bodies)]
        try:
            if self._session is not None:
                async with self._session.post(self._url, data=body, headers={"Content-Type": kind}) as answer:
                    await answer.read()
                    return answer.status
        except (aiohttp.ClientError, TimeoutError):
            pass
        return 0
