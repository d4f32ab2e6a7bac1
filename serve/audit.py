"""The audit log: who asked what of which model and what came of it, as JSON lines of which each holds the hash of the one before.

A line that is changed, taken out or put in breaks the chain, which `fmx audit verify` tells. Inputs and answers stand in it as SHA-256, never
themselves. Several workers write one file, each under its lock; a file that was moved away is begun anew, its chain going on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fmx import host
from fmx.errors import DataError
from serve import metrics
from serve.background import end
from serve.masking import encodable

START = "0" * 64
HEAD_BYTES = 128
MOST_WAITING = 100_000
"""Entries; a disk that hangs must not fill the memory."""
log = logging.getLogger("fmx.serve")


def digest(data: bytes) -> str:
    """Give the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _sealed(entry: dict[str, Any]) -> tuple[bytes, str]:
    """Give a line, the entry with the hash of all else in it, and that hash."""
    own = digest(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))
    return orjson.dumps({**entry, "hash": own}, option=orjson.OPT_SORT_KEYS) + b"\n", own


GATHER_SECONDS = 0.05
"""How long entries gather: opening, locking and writing the file costs more than an entry."""


class AuditLog:
    """Writes entries from a thread of its own, so that no request waits for the disk. What cannot be written is counted, and said.

    The chain's head (last hash and number) stands in `<file>.head`, whose lock all writers hold in turn: so the chain goes on over workers,
    restarts and files that are moved away.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name="fmx-audit", daemon=True)
        self._thread.start()

    def write(self, **facts: Any) -> None:
        """Note an entry; its number, time and chain are added. Where too many wait for the disk it is lost, and counted."""
        entry = {name: encodable(value) if isinstance(value, str) else value for name, value in facts.items()}
        try:
            self._entries.put_nowait({"time": host.now(), **entry})
        except queue.Full:
            metrics.audit_lost.inc()

    def close(self) -> None:
        """Write what waits, and end the thread; a disk that hangs is not waited for."""
        end(self._thread, self._entries)

    def _work(self) -> None:
        is_open = True
        while is_open:
            taken = [self._entries.get()]
            if taken[0] is not None:
                time.sleep(GATHER_SECONDS)
            while taken[-1] is not None and len(taken) < 1000:
                try:
                    taken.append(self._entries.get_nowait())
                except queue.Empty:
                    break
            is_open = taken[-1] is not None
            if entries := [entry for entry in taken if entry is not None]:
                self._append(entries)

    def _append(self, entries: list[dict[str, Any]]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked_head(self._path) as head:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    _append_to(file, head, entries)
                finally:
                    os.close(file)
        except (OSError, ValueError, KeyError, TypeError) as error:  # the disk, or a file that is no audit log
            metrics.audit_lost.inc(len(entries))
            if not self._is_failing:
                log.error("The audit log %s cannot be written (%s); serving goes on without.", self._path, error)
            self._is_failing = True
            return
        if self._is_failing:
            log.warning("The audit log is written again.")
        self._is_failing = False


@contextmanager
def _locked_head(path: Path) -> Iterator[int]:
    """Hold the lock of a log's head file, and give its descriptor."""
    if path.is_char_device():
        yield -1
        return
    file = os.open(path.with_name(f"{path.name}.head"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _append_to(file: int, head: int, entries: list[dict[str, Any]]) -> None:
    size = os.fstat(file).st_size
    last, number = _read_head(head)
    if size:
        entry, size = _last_entry(file, size)
        if entry["number"] >= number:  # a kill between the line and the head
            last, number = entry["hash"], entry["number"]
    lines = []
    for entry in entries:
        number += 1
        line, last = _sealed({"number": number, "previous": last, **entry})
        lines.append(line)
    data = b"".join(lines)
    try:
        if os.write(file, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, size)  # a torn line would look like tampering
        raise
    if head >= 0:
        text = orjson.dumps({"hash": last, "number": number})
        os.pwrite(head, text.ljust(HEAD_BYTES), 0)


def _read_head(head: int) -> tuple[str, int]:
    text = os.pread(head, HEAD_BYTES, 0).strip() if head >= 0 else b""
    if not text:
        return START, 0
    found = orjson.loads(text)
    return str(found["hash"]), int(found["number"])


def _last_entry(file: int, size: int) -> tuple[dict[str, Any], int]:
    """Read the last whole line, and give it with the size without a torn one behind it, which is cut off.

    Raises:
        ValueError, KeyError, TypeError: it is no entry; then nothing is cut.
    """
    window = 4096
    while True:
        begin = max(0, size - window)
        tail = os.pread(file, size - begin, begin)
        end = tail.rfind(b"\n") + 1
        start = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
        if (end and start) or not begin:
            break
        window *= 8
    entry: dict[str, Any] = orjson.loads(tail[start:end])
    entry = {"hash": str(entry["hash"]), "number": int(entry["number"]), "previous": entry["previous"]}
    if end < len(tail):
        log.warning("The audit log ended in the middle of a line, which is dropped.")
        os.ftruncate(file, begin + end)
    return entry, begin + end


@dataclass(frozen=True)
class Verified:
    """An audit log whose chain holds."""

    entries: int
    first: str
    last: str
    begins: str
    """The hash that the first line goes on from; zeros when it is the first of all."""
    ends: str


def verify_audit(paths: Iterable[Path]) -> Verified:
    """Verify the chain over one or several files, in their order.

    Raises:
        DataError: a line that is no entry, was changed, or does not follow the one before; with its file and number.
    """
    previous, number, first, last, begins, entries = "", 0, "", "", START, 0
    for path, place, line in _lines(paths):
        entry = _entry(path, place, line)
        where = f"{path.name}, line {place}"
        if previous and (entry["previous"], entry["number"]) != (previous, number + 1):
            raise DataError(f"{where} does not follow the line before it.", hint="Lines were taken out, put in or reordered there.")
        first, begins = (first, begins) if previous else (entry["time"], entry["previous"])
        previous, number, last, entries = entry["hash"], entry["number"], entry["time"], entries + 1
    if not entries:
        raise DataError("There is no entry.", hint="Name the file of FMX_AUDIT_FILE.")
    return Verified(entries, first, last, begins, previous)


def _lines(paths: Iterable[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for path in paths:
        try:
            with path.open("rb") as file:
                for place, line in enumerate(file, 1):
                    yield path, place, line
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).", hint="Name the file of FMX_AUDIT_FILE.") from error


def _entry(path: Path, place: int, line: bytes) -> dict[str, Any]:
    where = f"{path.name}, line {place}"
    try:
        entry: dict[str, Any] = orjson.loads(line)
        sealed, _ = _sealed({name: value for name, value in entry.items() if name != "hash"})
        is_whole = all(isinstance(entry[name], str) for name in ("hash", "previous", "time")) and type(entry["number"]) is int
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{where} is no entry of an audit log.", hint="The file was cut or changed there.") from error
    if not is_whole or (entry["previous"] == START and entry["number"] != 1):
        raise DataError(f"{where} is no entry of an audit log.", hint="The file was cut or changed there.")
    if sealed != line:
        raise DataError(f"{where} was changed: its hash is of another entry.", hint="Everything from there on is in doubt.")
    return entry
