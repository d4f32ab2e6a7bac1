"""What a worker writes to standard error: one handler for every logger, JSON lines or plain ones, each masked after it was formatted.

Request bodies are never logged. What a library puts into a message or a traceback passes `serve.masking.mask` like everything else.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal, TextIO

import orjson

from serve import metrics
from serve.masking import encodable, mask

Format = Literal["auto", "json", "text"]
ACCESS = "fmx.access"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(frozen=True)
class RequestContext:
    """What every line that is written for a request carries."""

    request_id: str
    trace_id: str = ""


request_context: ContextVar[RequestContext | None] = ContextVar("fmx_request", default=None)


def trace_id_of(traceparent: str) -> str:
    """Give the trace id of a W3C traceparent header; empty for one that is none, or all zeros."""
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    return found[1] if found and found[1] != "0" * 32 and found[2] != "0" * 16 else ""


class TextFormatter(logging.Formatter):
    """Plain lines, for eyes."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format and mask."""
        facts = getattr(record, "facts", None)
        context = request_context.get()
        told = {**(facts or {}), **({"request": context.request_id} if context is not None else {})}
        return _safe(super().format(record) + "".join(f" {name}={value}" for name, value in told.items()))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """Format and mask."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {
            "time": when,
            "level": record.levelname,
            "logger": record.name,
        }
        line["message"] = (_safe_fact if record.name == ACCESS else _safe)(record.getMessage())
        context = request_context.get()
        if context is not None:
            line["request_id"] = _safe(context.request_id)
            if context.trace_id:
                line["trace_id"] = context.trace_id
        facts = getattr(record, "facts", None)
        if facts:
            line |= {name: _safe_fact(value) if isinstance(value, str) else value for name, value in facts.items()}
        if record.exc_info:
            line["exception"] = _safe(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str).decode()


class _Handler(logging.StreamHandler[TextIO]):
    """Goes on where a line cannot be written (its pipe is gone, the disk is full), and counts it."""

    def handleError(self, record: logging.LogRecord) -> None:
        metrics.logs_lost.inc()


def _safe(text: str) -> str:
    """Mask, and make it text that can be written."""
    return mask(encodable(text))


@lru_cache(4096)
def _safe_fact(text: str) -> str:
    """Mask what comes again and again: routes, methods, keys' ids."""
    return _safe(text)


def set_up_logs(form: Format) -> None:
    """Send every logger's records through one masking handler on standard error, in place of those that libraries have set up before."""
    is_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in (logging.root, *loggers):
        logger.handlers[:] = [handler for handler in logger.handlers if not _is_console(handler)]
        logger.propagate = True
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else TextFormatter())
    logging.root.addHandler(handler)
    for name in ("fmx.serve", ACCESS):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.raiseExceptions = False  # a record that cannot be written would be printed unmasked
    logging.captureWarnings(True)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _log_unraisable
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _log_uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_uncaught_in_thread


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)


def _log_uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(_safe("".join(traceback.format_exception(kind, error, where))))


def _log_unraisable(given: sys.UnraisableHookArgs) -> None:
    if given.exc_value is not None:
        logging.getLogger("fmx.serve").error("An error was passed over.", exc_info=(type(given.exc_value), given.exc_value, given.exc_traceback))


def _log_uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is not None:
        logging.getLogger("fmx.serve").error("A thread ended.", exc_info=(given.exc_type, given.exc_value, given.exc_traceback))
