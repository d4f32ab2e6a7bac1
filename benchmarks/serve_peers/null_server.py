"""The least that answers POST /predict: bare ASGI that reads the body and says the same to everybody.

What a client reaches here is its own ceiling. `PEERS["null"]` says how uvicorn runs it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]

LABELS = [{"label": str(label), "score": 0.9966164231300354 / 10**label} for label in range(5)]
ANSWER = os.environ.get("FMX_PEER_ANSWER", json.dumps({"labels": LABELS})).encode()
"""The body of every answer; FMX_PEER_ANSWER makes it as long as another server's."""

HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """Read one request's body to its end and answer it."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})
