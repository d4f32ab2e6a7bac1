"""The key file: API keys `fmx_<id>_<secret>`, of which only the SHA-256 is kept. The secret has 256 random bits, so a plain hash cannot be
searched. The file is replaced atomically, so a running service (keyring.py) reads a whole one or the one before.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from limits import RateLimitItem, parse_many

from fmx import host, storage
from fmx.errors import SurroundingsError, UsageError, disk_errors

SCOPES = ("predict", "metrics", "admin")
"""What a key may be good for; `predict` unless it is said."""

LAST_USE = "last-use"
"""Folder beside the key file whose files' times say when each key was last used."""


@dataclass(frozen=True)
class Key:
    """A key as the file knows it."""

    id: str
    name: str
    sha256: str
    created: str
    revoked: str | None = None
    scopes: tuple[str, ...] = ("predict",)
    expires: str | None = None
    """UTC, as `created`; None: never."""
    rate: str | None = None
    """Such as `10/second` or `300/minute`; None: as often as the service can."""
    quota: int | None = None
    """Requests a day."""

    @classmethod
    def of_json(cls, entry: dict[str, Any]) -> Key:
        """Read an entry of the file. Raises: TypeError, ValueError."""
        key = cls(**{**entry, "scopes": tuple(entry.get("scopes", ("predict",)))})
        check_scopes(key.scopes)
        read_rate(key.rate)
        key.expires_at()
        return key

    def expires_at(self) -> float:
        """Give the second since 1970 from which it is no longer good; infinity for never."""
        return read_time(self.expires).timestamp() if self.expires else float("inf")

    def is_live(self, now: float) -> bool:
        """Say whether it is good at a time, in seconds since 1970."""
        return self.revoked is None and now < self.expires_at()


@lru_cache(maxsize=1024)  # asked for every request of a key that ends
def read_time(text: str) -> datetime:
    """Read a time of the file, `2026-01-31T12:00:00Z`. Raises: ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def check_scopes(scopes: tuple[str, ...]) -> None:
    """Raises: ValueError for one that there is not, or none."""
    unknown = set(scopes) - set(SCOPES)
    if unknown or not scopes:
        raise ValueError(f"scopes are of {', '.join(SCOPES)}")


def read_rate(text: str | None) -> RateLimitItem | None:
    """Read a rate such as `10/second`. Raises: ValueError."""
    if text is None:
        return None
    rates = parse_many(text)
    if len(rates) != 1 or rates[0].amount < 1:
        raise ValueError("exactly one rate, of at least one request")
    return rates[0]


def create_key(
    path: Path,
    name: str,
    *,
    scopes: tuple[str, ...] = ("predict",),
    expires: str | None = None,
    rate: str | None = None,
    quota: int | None = None,
) -> tuple[Key, str]:
    """Add a key to the file, made with mode 600 where it is missing, and return it with its text, which is shown this once.

    Args:
        path: of the key file.
        name: whose key it is.
        scopes: of `SCOPES`.
        expires: a span such as `90d` or `12h`, or a date.
        rate: such as `10/second`.
        quota: requests a day.

    Raises:
        UsageError: an empty name, or one that a live key has; a scope, time, rate or quota that is none.
    """
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise UsageError("A key needs a printable name of at most 100 characters.", hint="Name the client: fmx keys create web-shop")
    ends = _read_expiry(expires)
    if ends is not None and read_time(ends).timestamp() <= _now():
        raise UsageError(f"{expires!r} has passed.", hint="Such as 90d, 12h or a date to come.")
    given = {"scopes": scopes, "expires": ends, "rate": _checked_rate(rate), "quota": _checked_quota(quota)}
    try:
        check_scopes(scopes)
    except ValueError:
        raise UsageError(f"There is no such scope: {', '.join(scopes) or 'none'}.", hint=f"Scopes: {', '.join(SCOPES)}.") from None
    with _locked(path):
        keys = read_keys(path) if path.exists() else []
        if any(key.name == name and key.is_live(_now()) for key in keys):
            raise UsageError(f"There is a live key named {name!r}.", hint=f"Exchange it: fmx keys rotate {name}; or choose another name.")
        key, text = _new_key(name, **given)
        _write(path, [*keys, key])
    return key, text


def rotate_key(path: Path, name_or_id: str, overlap: str = "24h") -> tuple[Key, str, Key]:
    """Make another key with a live key's name, rights and span of life; the old one stays good for an overlap, so that nobody is cut off.

    Returns:
        The new key, its text, and the old key with its new end.

    Raises:
        UsageError: no live key, or an overlap that is no span.
    """
    ends = _read_expiry(overlap)
    with _locked(path):
        keys = read_keys(path)
        old = _find_live(keys, name_or_id)
        new, text = _new_key(old.name, scopes=old.scopes, expires=_same_span(old), rate=old.rate, quota=old.quota)
        old = replace(old, expires=min(filter(None, (old.expires, ends))))
        _write(path, [*(old if key.id == old.id else key for key in keys), new])
    return new, text, old


def _same_span(key: Key) -> str | None:
    """Give the end of a key that is made now and lives as long as another was made for."""
    if key.expires is None:
        return None
    return host.written(datetime.now(UTC) + (read_time(key.expires) - read_time(key.created)))


def _read_expiry(text: str | None) -> str | None:
    """Read a span from now or a date as a time of the file."""
    if text is None:
        return None
    span = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    try:
        when = datetime.now(UTC) + timedelta(**{unit[span[2]]: int(span[1])}) if span else datetime.fromisoformat(text.strip())
        written = host.written(when)
        read_time(written)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is neither a span nor a date.", hint="Such as 90d, 12h or 2027-01-31.") from None
    return written


def _checked_rate(rate: str | None) -> str | None:
    try:
        read_rate(rate)
    except ValueError:
        raise UsageError(f"{rate!r} is no rate.", hint="Such as 10/second, 300/minute or 5000/hour.") from None
    return rate


def _checked_quota(quota: int | None) -> int | None:
    if quota is not None and quota < 1:
        raise UsageError("A quota is at least one request a day.", hint="Revoke a key that may do nothing: fmx keys revoke NAME")
    return quota


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _find_live(keys: list[Key], name_or_id: str) -> Key:
    """Find a live key by id, or the latest of a name. Raises: `UsageError`."""
    found = [key for key in keys if name_or_id in (key.id, key.name) and key.is_live(_now())]
    if not found:
        live = ", ".join(f"{key.name} ({key.id})" for key in keys if key.is_live(_now()))
        raise UsageError(f"There is no live key {name_or_id!r}.", hint=f"Live keys: {live or 'none'}.")
    return found[-1]


def last_uses(path: Path) -> dict[str, str]:
    """Give when each key was last used, by its id, as far as a service could write it down."""
    found = {}
    for file in (path.parent / LAST_USE).glob("*"):
        found[file.name] = host.written(datetime.fromtimestamp(file.stat().st_mtime, UTC))
    return found


def revoke_key(path: Path, name_or_id: str) -> tuple[Key, ...]:
    """Revoke a live key by its id, or all that have a name; the file keeps them, so that an id is never used again. Raises: `UsageError`."""
    with _locked(path):
        keys = read_keys(path)
        _find_live(keys, name_or_id)
        now = host.now()
        revoked = {key.id: replace(key, revoked=now) for key in keys if name_or_id in (key.id, key.name) and key.revoked is None}
        _write(path, [revoked.get(key.id, key) for key in keys])
    return tuple(revoked.values())


def read_keys(path: Path) -> list[Key]:
    """Read the file. Raises: `SurroundingsError` when it is missing or damaged: a service must then refuse, not open up."""
    try:
        return [Key.of_json(entry) for entry in json.loads(path.read_text())["keys"]]
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


def _new_key(name: str, **rights: Any) -> tuple[Key, str]:
    identity = secrets.token_hex(4)
    text = f"fmx_{identity}_{secrets.token_urlsafe(32)}"
    return Key(identity, name, storage.sha256_bytes(text.encode()), host.now(), **rights), text


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
