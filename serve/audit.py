"""The audit log: who asked what of which model and what came of it, as JSON lines of which each holds the hash of the one before.

A line that is changed, taken out or put in breaks the chain, which `fmx audit verify` tells. Inputs and answers stand in it as SHA-256, never
themselves. Several workers write one file, each under its lock; a file that was moved away is begun anew, its chain going on.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fmx import host
from fmx.errors import DataError
from serve import metrics

START = "0" * 64
TAIL_BYTES = 65_536
"""More than any line has."""
log = logging.getLogger("fmx.serve")


def digest(data: bytes) -> str:
    """Give the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _sealed(entry: dict[str, Any]) -> bytes:
    """Give a line: the entry with the hash of all else in it."""
    return orjson.dumps({**entry, "hash": digest(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))}, option=orjson.OPT_SORT_KEYS) + b"\n"


class AuditLog:
    """Writes entries from a thread of its own, so that no request waits for the disk. What cannot be written is counted, and said."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._last, self._number = START, 0
        self._place: tuple[int, int] | None = None
        """The file and its size when this worker last wrote; where they differ, somebody else wrote since."""
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name="fmx-audit", daemon=True)
        self._thread.start()

    def write(self, **facts: Any) -> None:
        """Note an entry; its number, time and chain are added."""
        self._entries.put({"time": host.now(), **facts})

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._entries.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._entries.get()) is not None:
            entries = [first]
            while not self._entries.empty() and len(entries) < 1000:
                entry = self._entries.get()
                if entry is None:
                    self._append(entries)
                    return
                entries.append(entry)
            self._append(entries)

    def _append(self, entries: list[dict[str, Any]]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._append_to(file, entries)
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

    def _append_to(self, file: int, entries: list[dict[str, Any]]) -> None:
        status = os.fstat(file)
        size = status.st_size
        if (status.st_ino, size) != self._place and size:
            size = self._catch_up(file, size)
        last, number, lines = self._last, self._number, []
        for entry in entries:
            number += 1
            lines.append(_sealed({"number": number, "previous": last, **entry}))
            last = orjson.loads(lines[-1])["hash"]
        data = b"".join(lines)
        try:
            if os.write(file, data) != len(data):
                raise OSError(28, "no space left")
        except OSError:
            os.ftruncate(file, size)  # a torn line would look like tampering
            raise
        self._last, self._number, self._place = last, number, (status.st_ino, size + len(data))

    def _catch_up(self, file: int, size: int) -> int:
        """Read the last line, which another worker or an earlier service wrote, and give the size without a torn one behind it."""
        begin = max(0, size - TAIL_BYTES)
        tail = os.pread(file, size - begin, begin)
        end = tail.rfind(b"\n") + 1
        if end < len(tail):
            log.warning("The audit log ended in the middle of a line, which is dropped.")
            os.ftruncate(file, begin + end)
        lines = tail[:end].splitlines()
        if lines:
            entry = orjson.loads(lines[-1])
            self._last, self._number = entry["hash"], entry["number"]
        return begin + end


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
        if previous and (entry["previous"] != previous or entry["number"] != number + 1):
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
        sealed = _sealed({name: value for name, value in entry.items() if name != "hash"})
        entry["hash"], entry["previous"], entry["number"], entry["time"]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{where} is no entry of an audit log.", hint="The file was cut or changed there.") from error
    if sealed != line:
        raise DataError(f"{where} was changed: its hash is of another entry.", hint="Everything from there on is in doubt.")
    return entry
