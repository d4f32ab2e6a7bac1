"""What a worker does twice a second beside answering: follow the package to where it leads now, fulfil wishes, look after the other workers.

It runs in a thread of its own; opening a package there takes none of the event loop's time.
"""

from __future__ import annotations

import logging
import os
import threading
import time

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
        self._try_again_at = float("inf")
        self._fulfilled = crew.wish().generation
        self._error = ""
        self._reported: Report | None = None
        self._stumbled_on = ""
        self._all_were_here = False
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
        vitals = Vitals(workers=self._settings.workers, gpu=self._settings.device != "cpu" and choose_device(self._settings.device) != "cpu")
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
        """Swap where a wish or the package's path asks for it."""
        if not self._engine.is_open:
            if self._engine.is_refused and self._leads_to() != self._seen:
                self._seen = self._leads_to()
                self._engine.open_again()
            return
        wish = self._crew.wish()
        if wish.generation > self._fulfilled:
            self._fulfil(wish)
            self._fulfilled = wish.generation
            return
        if self._settings.follow == "off":
            return
        leads_to = self._leads_to()
        if leads_to != self._seen or time.monotonic() >= self._try_again_at:
            self._seen = leads_to
            self._fulfil(Wish(self._fulfilled))

    def _fulfil(self, wish: Wish) -> None:
        try:
            if wish.to == "previous":
                self._engine.roll_back()
            else:
                self._seen = self._leads_to()
                self._engine.swap()
            self._error, self._try_again_at = "", float("inf")
        except FmxError as error:
            self._error = f"{error.message} {error.hint}".strip()
            self._try_again_at = time.monotonic() + AGAIN_SECONDS if wish.to == "current" else float("inf")

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
        if report != self._reported:
            self._crew.report(report)
            self._reported = report

    def _count_workers(self) -> None:
        """Make this worker not ready while another one is gone: the server is not what it was measured to be."""
        alive, wanted = len(self._crew.reports()), self._settings.workers
        metrics.workers_alive.set(alive)
        if alive >= wanted:
            if self._all_were_here and self._missing_since < float("inf"):
                log.warning("All %d workers are here again.", wanted)
            self._all_were_here, self._missing_since, self._engine.missing = True, float("inf"), ""
        elif self._all_were_here:
            self._missing_since = min(self._missing_since, time.monotonic())
            if time.monotonic() - self._missing_since >= MISSING_SECONDS and not self._engine.missing:
                self._engine.missing = f"{wanted - alive} of {wanted} workers is gone."
                log.error("%s This worker is not ready until it is replaced.", self._engine.missing)
