"""The workers of one server, seen from each of them: who lives, what they serve, and what they are all asked to do.

BentoML starts them apart and gives them one thing in common, a folder for metrics (PROMETHEUS_MULTIPROC_DIR); each keeps a small file there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from fmx import storage

_FILE = re.compile(r"fmx-worker-(\d+)\.json")


@dataclass(frozen=True)
class Report:
    """What a worker says of itself."""

    generation: int
    """The last wish that it has seen to."""
    name: str = ""
    version: str = ""
    variant: str = ""
    digest: str = ""
    error: str = ""
    """Why the last wish could not be fulfilled."""


@dataclass(frozen=True)
class Wish:
    """What every worker is to serve, one that is started later too: a folder, or what the settings lead to."""

    generation: int = 0
    folder: str = ""


class Crew:
    """One worker's view of all of them."""

    def __init__(self) -> None:
        shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._own_folder = None if shared else tempfile.mkdtemp(prefix="fmx-crew-")
        self._folder = Path(shared or str(self._own_folder))
        self._own = self._folder / f"fmx-worker-{os.getpid()}.json"
        self._wish = self._folder / "fmx-wish.json"

    def report(self, report: Report) -> None:
        """Say how this worker stands."""
        storage.write_text(self._own, json.dumps(asdict(report)))

    @property
    def is_reported(self) -> bool:
        """Whether this worker's report is there; whoever empties the folder takes it along."""
        return self._own.exists()

    def reports(self) -> dict[int, Report]:
        """Read how the live workers stand, by process id; what dead ones left is removed."""
        found = {}
        for file in self._folder.glob("fmx-worker-*.json"):
            match = _FILE.fullmatch(file.name)
            if match is None:
                continue
            if not is_alive(int(match[1])):
                file.unlink(missing_ok=True)
                continue
            try:
                found[int(match[1])] = Report(**json.loads(file.read_text()))
            except (OSError, ValueError, TypeError):
                continue  # being removed just now
        return found

    def wish(self) -> Wish:
        """Read what all are asked to do."""
        try:
            return Wish(**json.loads(self._wish.read_text()))
        except (OSError, ValueError, TypeError):
            return Wish()

    def ask(self, folder: str = "") -> Wish:
        """Ask all workers, this one too, and give the wish."""
        with (self._folder / "fmx-wish.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            wish = Wish(self.wish().generation + 1, folder)
            storage.write_text(self._wish, json.dumps(asdict(wish)))
        return wish

    def close(self) -> None:
        """Leave."""
        self._own.unlink(missing_ok=True)
        if self._own_folder:
            shutil.rmtree(self._own_folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Say whether a process lives; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True  # where there is no /proc
