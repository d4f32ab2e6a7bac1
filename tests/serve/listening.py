"""The service in this process: its settings and a key, and a socket before it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from fmx.package import Package
from serve.access.keys import create_key


@contextmanager
def configured(package: Package, folder: Path, *, scopes: tuple[str, ...] = ("predict",), **variables: str) -> Iterator[str]:
    """Set what a service of a package reads from the environment until the block ends; gives a key for it, whose file lies in the folder."""
    keys = folder / "keys.json"
    _, key = create_key(keys, "test", scopes=scopes)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"FMX_KEYS_FILE": str(keys), "FMX_PACKAGE": str(package.folder), **variables}.items():
            patch.setenv(name, value)
        yield key


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve an ASGI app until the block ends, ready when it begins; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, server_header=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        while httpx.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.05)
        yield url
    finally:
        server.should_exit = True
        thread.join()
