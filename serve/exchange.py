"""One request's body and its answer, within limits of size and time, whatever the headers said."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.types import Message, Receive, Send

from fmx.errors import TooLargeError
from serve.errors import SlowBodyError, too_late

LINGER_SECONDS = 2.0
LINGER_BYTES = 256_000_000
"""Bounds on what is read and thrown away after an early answer."""
SKIM_SECONDS = 0.02
"""How long the rest of a body is waited for before an early answer."""


class Exchange:
    """One request and its answer: the body may not grow past a limit, whatever its headers said, nor take too long, and no answer is cut off.

    An answer to a body that was not read to its end is sent at once; then what the client still sends is read and thrown away, within
    bounds, before the connection closes. Closing at once would reset it, and the client would never see the answer.
    """

    def __init__(self, receive: Receive, send: Send, limit: int, body_seconds: float, deadline: float, *, has_body: bool) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._until = time.monotonic() + body_seconds
        self._deadline = deadline
        self._taken = 0
        self._read_to_end = not has_body

    @property
    def taken_bytes(self) -> int:
        """Bytes of the body that have come."""
        return self._taken

    async def receive(self) -> Message:
        """Receive the next part of the body. Raises: `TooLargeError`, `SlowBodyError`, `DeadlineError`."""
        message = await (self._receive() if self._read_to_end else self._receive_in_time())
        self._count(message)
        if self._taken > self._limit:
            raise too_long(self._limit)
        return message

    async def skim(self) -> None:
        """Read a body that is here already, so that an early answer need not close the connection. Raises: `TooLargeError`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SKIM_SECONDS):
                while not self._read_to_end:
                    await self.receive()

    async def _receive_in_time(self) -> Message:
        try:
            async with asyncio.timeout(min(self._until, self._deadline) - time.monotonic()):
                return await self._receive()
        except TimeoutError:
            if self._deadline < self._until:
                raise too_late() from None
            raise SlowBodyError("The body came too slowly.", hint="Send less at once, or raise FMX_BODY_SECONDS.") from None

    async def send(self, message: Message) -> None:
        """Send a part of the answer; after the last one of an early answer, read what the client still sends."""
        if message["type"] == "http.response.start" and not self._read_to_end:
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        if message["type"] != "http.response.body" or message.get("more_body") or self._read_to_end:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._throw_away_the_rest()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _throw_away_the_rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._read_to_end and self._taken < self._limit + LINGER_BYTES:
                    self._count(await self._receive())

    def _count(self, message: Message) -> None:
        self._read_to_end = message["type"] == "http.disconnect" or not message.get("more_body", False)
        self._taken += len(message.get("body", b""))


def too_long(limit: int) -> TooLargeError:
    """Say that a body is too long."""
    return TooLargeError(f"The body is longer than {limit:,} bytes.", hint="Send less at once, or raise FMX_MAX_BODY_BYTES.")
