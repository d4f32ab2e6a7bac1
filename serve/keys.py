"""API keys: `fmx_<id>_<secret>`, of which only the SHA-256 is kept. The secret has 256 random bits, so a plain hash cannot be searched.

The file is replaced atomically and read again when it changes, so keys come and go without a restart.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fmx import host, storage
from fmx.errors import SurroundingsError, UsageError, disk_errors

REREAD_SECONDS = 1.0
log = logging.getLogger("fmx.serve")


@dataclass(frozen=True)
class Key:
    """A key as the file knows it."""

    id: str
    name: str
    sha256: str
    created: str
    revoked: str | None = None


def create_key(path: Path, name: str) -> tuple[Key, str]:
    """Add a key to the file, made with mode 600 where it is missing, and return it with its text, which is shown this once.

    Raises:
        UsageError: an empty name, or one that a live key has.
    """
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise UsageError("A key needs a printable name of at most 100 characters.", hint="Name the client: fmx keys create web-shop")
    with _locked(path):
        keys = read_keys(path) if path.exists() else []
        if any(key.name == name and key.revoked is None for key in keys):
            raise UsageError(f"There is a live key named {name!r}.", hint="Revoke it first, or choose another name.")
        key, text = _new_key(name)
        _write(path, [*keys, key])
    return key, text


def revoke_key(path: Path, name_or_id: str) -> Key:
    """Revoke a live key by its id or name; the file keeps it, so that its id is never used again. Raises: `UsageError`."""
    with _locked(path):
        keys = read_keys(path)
        found = [key for key in keys if name_or_id in (key.id, key.name) and key.revoked is None]
        if not found:
            live = ", ".join(f"{key.name} ({key.id})" for key in keys if key.revoked is None)
            raise UsageError(f"There is no live key {name_or_id!r}.", hint=f"Live keys: {live or 'none'}.")
        revoked = Key(**{**asdict(found[0]), "revoked": host.now()})
        _write(path, [revoked if key.id == revoked.id else key for key in keys])
    return revoked


def read_keys(path: Path) -> list[Key]:
    """Read the file. Raises: `SurroundingsError` when it is missing or damaged: a service must then refuse, not open up."""
    try:
        return [Key(**entry) for entry in json.loads(path.read_text())["keys"]]
    except FileNotFoundError as error:
        raise SurroundingsError(f"There is no key file {path}.", hint="Make one with: fmx keys create NAME") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SurroundingsError(f"The key file {path} cannot be read ({error}).", hint="Restore it, or move it away and make new keys.") from error


def make_first_key(path: Path) -> str | None:
    """Make a key file with one key unless there is one, and return the key's text to the one process that made it.

    The file appears whole under its name by a hard link, which fails where it exists: exactly one of several starters wins.
    """
    if path.exists():
        return None
    key, text = _new_key("first")
    with disk_errors("writing the key file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            storage.write_text(partial, _serialise([key]), 0o600)
            os.link(partial, path)
        except FileExistsError:
            return None
        finally:
            partial.unlink(missing_ok=True)
    return text


class KeyRing:
    """The keys of a running service, in memory, read again at most once a second when the file changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._looked = float("-inf")
        self._live: dict[str, Key] = {}
        self._refresh()

    def identify(self, text: str) -> Key | None:
        """Return the live key of this text, or None; takes the same time for a wrong secret whatever it shares with the right one."""
        self._refresh()
        parts = text.split("_", 2)
        key = self._live.get(parts[1]) if len(parts) == 3 and parts[0] == "fmx" else None
        expected = key.sha256 if key else "0" * 64
        same = hmac.compare_digest(storage.sha256_bytes(text.encode("utf-8", "surrogatepass")), expected)
        return key if same else None

    def _refresh(self) -> None:
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
            except SurroundingsError as error:
                if self._stamp is None:
                    raise
                log.error("The keys stay as they were: %s", error.message)
            self._stamp = stamp


def _new_key(name: str) -> tuple[Key, str]:
    identity = secrets.token_hex(4)
    text = f"fmx_{identity}_{secrets.token_urlsafe(32)}"
    return Key(identity, name, storage.sha256_bytes(text.encode()), host.now()), text


def _serialise(keys: list[Key]) -> str:
    return json.dumps({"version": 1, "keys": [asdict(key) for key in keys]}, indent=2) + "\n"


def _write(path: Path, keys: list[Key]) -> None:
    storage.write_text(path, _serialise(keys), 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock, so that two commands at once lose no key."""
    with disk_errors("writing the key file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
