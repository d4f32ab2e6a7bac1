"""A light HTTP client for benchmarks/serve.py: keep-alive connections on raw asyncio protocols, so that it takes little of the cores that it shares.

The loops are those of `fmx capacity` (serve/scaling/load.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlsplit

from serve.scaling.load import Observed, closed_loop, open_loop

LOST = 0
"""The status of a request whose connection broke."""


def request_bytes(url: str, body: bytes, kind: str, key: str = "") -> bytes:
    """Give a whole HTTP/1.1 request."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Connection(asyncio.Protocol):
    """One connection, one request at a time; an answer has a Content-Length or is chunked."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._buffer = b""
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_open = transport, True

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        split = self._buffer.find(b"\r\n\r\n")
        if split < 0:
            return
        head = self._buffer[:split].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            is_whole = len(self._buffer) >= split + 4 + length
        else:
            is_whole = self._buffer.endswith(b"0\r\n\r\n")
        if is_whole and self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), self._buffer[split + 4 :]))
            self._buffer = b""
            if b"connection: close" in head and self._transport is not None:
                self.is_open = False
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((LOST, b""))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is not None:
            self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Client:
    """Sends requests, in turn, to one server on loopback."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self._requests = requests
        self._free: deque[_Connection] = deque()

    async def ask(self, number: int) -> tuple[int, bytes]:
        """Send the request of that number, and give status and body."""
        connection = await self._connection()
        answer = await connection.ask(self._requests[number % len(self._requests)])
        if connection.is_open:
            self._free.append(connection)
        return answer

    async def closed_loop(self, callers: int, seconds: float) -> Observed:
        """Keep so many requests under way."""
        return await closed_loop(self._status, callers, seconds)

    async def open_loop(self, rate: float, seconds: float, seed: int = 0) -> Observed:
        """Send so many requests a second at Poisson times, whatever comes back."""
        return await open_loop(self._status, rate, seconds, seed)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._free:
            connection.close()
        self._free.clear()

    async def _status(self, number: int) -> int:
        return (await self.ask(number))[0]

    async def _connection(self) -> _Connection:
        while self._free:
            connection = self._free.popleft()
            if connection.is_open:
                return connection
        _, protocol = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", self._port)
        return protocol
