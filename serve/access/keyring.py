"""The keys of a running service: in memory, read again when the file changes, each one's last use written down beside the file."""

from __future__ import annotations

import hmac
import logging
import os
import threading
import time
from pathlib import Path

from fmx import storage
from fmx.errors import SurroundingsError
from serve import metrics
from serve.access.keys import LAST_USE, Key, read_keys

REREAD_SECONDS = 1.0
USE_SECONDS = 60.0
"""How exact the time of a key's last use is."""
log = logging.getLogger("fmx.serve")


class KeyRing:
    """Identifies keys. A file that vanishes or is damaged under a running service leaves its keys as they were."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._looked = float("-inf")
        self._live: dict[str, Key] = {}
        self._ending: set[str] = set()
        """Ids of the keys whose end is in the metrics."""
        self._used: dict[str, float] = {}
        self._can_write_use = True
        self.refresh()

    def identify(self, text: str) -> Key | None:
        """Return the live key of this text, or None; takes the same time for a wrong secret whatever it shares with the right one."""
        self.refresh()
        parts = text.split("_", 2)
        key = self._live.get(parts[1]) if len(parts) == 3 and parts[0] == "fmx" else None
        expected = key.sha256 if key else "0" * 64
        same = hmac.compare_digest(storage.sha256_bytes(text.encode("utf-8", "surrogatepass")), expected)
        if key is None or not same or not key.is_live(time.time()):
            return None
        self._write_use(key)
        return key

    @property
    def next_expiry(self) -> float:
        """When the first of the live keys ends, in seconds since 1970; infinity when none does."""
        now = time.time()
        return min((key.expires_at() for key in self._live.values() if key.is_live(now)), default=float("inf"))

    def _write_use(self, key: Key) -> None:
        """Touch the key's file, once a minute; where the folder cannot be written to (a mounted secret), say so once."""
        now = time.monotonic()
        if not self._can_write_use or now - self._used.get(key.id, float("-inf")) < USE_SECONDS:
            return
        self._used[key.id] = now
        folder = self._path.parent / LAST_USE
        try:
            folder.mkdir(exist_ok=True)
            file = folder / key.id
            file.touch()
            os.utime(file)
        except OSError as error:
            self._can_write_use = False
            log.warning("Last uses of keys cannot be written to %s (%s).", folder, error.strerror)

    def refresh(self) -> None:
        """Read the file again where it changed, looking at most once a second."""
        now = time.monotonic()
        if now - self._looked < REREAD_SECONDS:
            return
        with self._lock:
            self._looked = now
            try:
                status = self._path.stat()
            except OSError:
                if self._stamp is None:
                    read_keys(self._path)
                return  # a file that vanished under a running service leaves its keys as they were
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            try:
                self._live = {key.id: key for key in read_keys(self._path) if key.revoked is None}
                self._show_ends()
            except SurroundingsError as error:
                if self._stamp is None:
                    raise
                log.error("The keys stay as they were: %s", error.message)
            self._stamp = stamp

    def _show_ends(self) -> None:
        now = time.time()
        ends = {key.id: key.expires_at() for key in self._live.values() if key.expires is not None and key.is_live(now)}
        for gone in self._ending - ends.keys():
            metrics.end_series(metrics.key_expires, gone)
        for identity, end in ends.items():
            metrics.key_expires.labels(identity).set(end)
        self._ending = set(ends)
