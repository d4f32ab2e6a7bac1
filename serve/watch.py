"""What a worker does twice a second beside answering: follow the package to where it leads now, fulfil wishes, look after the other workers.

It runs in a thread of its own; opening a package there takes none of the event loop's time.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from fmx.errors import FmxError
from fmx.package import MANIFEST
from fmx.runtime import choose_device
from serve import metrics
from serve.crew import Crew, Report, Wish
from serve.engine import Engine
from serve.settings import ServeSettings, package_path
from serve.vitals import Vitals

TICK_SECONDS = 0.5
AGAIN_SECONDS = 30.0
"""After a package was refused: somebody may have been copying it."""
VITALS_SECONDS = 5.0
START_SECONDS = 120.0
"""In which every worker should have come up, and a swap be done in all."""
MISSING_SECONDS = 5.0
"""A worker that is gone for longer makes the others not ready."""
log = logging.getLogger("fmx.serve")


class Watch:
    """The thread."""

    def __init__(self, engine: Engine, crew: Crew, settings: ServeSettings) -> None:
        self._engine, self._crew, self._settings = engine, crew, settings
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fmx-watch", daemon=True)
        self._seen = self._leads_to()
        self._try_again_at = time.monotonic() + AGAIN_SECONDS  # should it be refused
        wish = crew.wish()
        self._fulfilled = wish.generation
        engine.pinned = Path(wish.folder) if wish.folder else None
        self._error = ""
        self._reported: Report | None = None
        self._stumbled_on = ""
        self._all_were_here = False
        self._began = time.monotonic()
        self._apart_since = float("inf")
        self._missing_since = float("inf")

    def start(self) -> None:
        """Begin."""
        self._report()
        self._thread.start()

    def close(self) -> None:
        """End, after what is under way."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._crew.close()

    def _work(self) -> None:
        vitals = Vitals(workers=self._settings.workers, gpu=choose_device(self._settings.device) != "cpu")
        update_at = 0.0
        while not self._ended.wait(TICK_SECONDS):
            try:
                self._follow()
                self._report()
                self._count_workers()
                if time.monotonic() >= update_at:
                    vitals.update()
                    metrics.reserve_space()
                    update_at = time.monotonic() + VITALS_SECONDS
                self._stumbled_on = ""
            except Exception as error:  # the next time may be better, and this one costs no request
                if repr(error) != self._stumbled_on:
                    log.exception("The worker's watch stumbled")
                self._stumbled_on = repr(error)

    def _follow(self) -> None:
        """Open or swap where a wish or the package's path asks for it, and once in a while what was refused."""
        wish, leads_to = self._crew.wish(), self._leads_to()
        has_moved = leads_to != self._seen and self._settings.follow == "on"
        if has_moved and wish.folder:
            self._seen = leads_to
            self._crew.ask()  # what somebody went back to has had its time, in every worker
            return
        if not self._engine.is_open and not self._engine.is_refused:
            return
        is_due = time.monotonic() >= self._try_again_at and (self._error or self._engine.is_refused)
        if wish.generation > self._fulfilled or has_moved or is_due:
            self._seen = leads_to
            self._fulfil(wish)

    def _fulfil(self, wish: Wish) -> None:
        self._engine.pinned = Path(wish.folder) if wish.folder else None
        self._try_again_at, self._error = float("inf"), ""
        try:
            if self._engine.is_open:
                self._engine.swap()
            else:
                self._engine.open_again()
                self._error = "" if self._engine.is_open else self._engine.why_not_ready
        except Exception as error:  # whatever it is, it is said once, and tried again later
            self._error = f"{error.message} {error.hint}".strip() if isinstance(error, FmxError) else repr(error)
        if self._error:
            self._try_again_at = time.monotonic() + AGAIN_SECONDS
        self._fulfilled = wish.generation

    def _leads_to(self) -> tuple[object, ...]:
        """Identify the package that the settings lead to, without reading it."""
        try:
            folder = package_path(self._settings)
            found = os.stat(folder / MANIFEST)
        except (FmxError, OSError):
            return ()
        return str(folder), found.st_mtime_ns, found.st_size, found.st_ino

    def _report(self) -> None:
        report = Report(self._fulfilled, *self._engine.names, error=self._error)
        if report != self._reported or not self._crew.is_reported:
            self._crew.report(report)
            self._reported = report

    def _count_workers(self) -> None:
        """Make this worker not ready while another one is gone: the server is not what it was measured to be."""
        reports = self._crew.reports()
        alive, wanted = len(reports), self._settings.workers
        metrics.workers_alive.set(alive)
        metrics.ready.set(0 if self._engine.why_not_ready else 1)
        self._compare({report.digest for report in reports.values() if report.digest})
        if alive >= wanted:
            if self._all_were_here and self._missing_since < float("inf"):
                log.warning("All %d workers are here again.", wanted)
            self._all_were_here, self._missing_since, self._engine.missing = True, float("inf"), ""
        elif self._all_were_here or time.monotonic() > self._began + START_SECONDS:
            self._missing_since = min(self._missing_since, time.monotonic())
            if time.monotonic() - self._missing_since >= MISSING_SECONDS and not self._engine.missing:
                self._engine.missing = f"{wanted - alive} of {wanted} workers is gone."
                log.error("%s This worker is not ready until it is replaced.", self._engine.missing)

    def _compare(self, digests: set[str]) -> None:
        """Say when the workers have served different packages for longer than a swap takes."""
        if len(digests) < 2:
            self._apart_since = float("inf")
            return
        self._apart_since = min(self._apart_since, time.monotonic())
        if time.monotonic() - self._apart_since >= START_SECONDS:
            log.error("The workers serve different packages (%s): reload them.", ", ".join(sorted(digest[:12] for digest in digests)))
            self._apart_since = time.monotonic()
