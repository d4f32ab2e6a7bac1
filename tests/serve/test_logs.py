from __future__ import annotations

import json
import subprocess
import sys

import pytest

from serve.logs import trace_id_of

SECRETS = ["13812345678", "11010519491231002X", "4111111111111111", "zhang@example.com", "fmx_0a1b2c3d_c2VjcmV0c2VjcmV0", "hunter2hunter2"]

SPEAK = """
import logging, sys, threading
own = logging.getLogger("some.library")
own.addHandler(logging.StreamHandler())
own.propagate = False
from serve.logs import RequestContext, request_context, set_up_logs
set_up_logs({form!r})
request_context.set(RequestContext("r1", "0af7651916cd43dd8448eb211c80319c"))
secrets = {secrets!r}
text = "phone %s id %s card %s mail %s key %s password=%s"
own.warning(text, *secrets)
logging.getLogger("uvicorn.error").error("while reading " + text % tuple(secrets))
try:
    raise ValueError(text % tuple(secrets))
except ValueError:
    logging.getLogger("fmx.serve").exception("it failed")
    logging.getLogger("later.library").exception("that failed too")
logging.getLogger("fmx.access").info("POST", extra={{"facts": {{"status": 200, "ms": 1.5}}}})
logging.getLogger("fmx.serve").info("cannot be formatted: %d", secrets[0])
logging.getLogger("fmx.serve").error("odd \\ud800 text")
thread = threading.Thread(target=lambda: int(secrets[3]))
thread.start()
thread.join()
raise RuntimeError(text % tuple(secrets))
"""


def spoken(form: str) -> list[str]:
    code = SPEAK.format(form=form, secrets=SECRETS)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.splitlines()


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_leaves_by_any_way_that_a_log_can_take(form: str) -> None:
    """Messages, arguments, tracebacks, other libraries' handlers, records that cannot be formatted, threads, and the exception that ends all."""
    lines = spoken(form)
    whole = "\n".join(lines)
    for secret in SECRETS:
        assert secret not in whole
    for sign in ("[phone]", "[identity card]", "[card]", "[email]", "fmx_0a1b2c3d_[secret]", "password=[secret]", "RuntimeError"):
        assert sign in whole
    assert whole.count("[email]") >= 6


def test_json_lines_carry_the_request_and_the_trace() -> None:
    lines = [json.loads(line) for line in spoken("json") if line.startswith("{")]
    assert {line["logger"] for line in lines} >= {"some.library", "uvicorn.error", "fmx.serve", "later.library", "fmx.access"}
    assert {line["request_id"] for line in lines if line["logger"] != "fmx.serve"} == {"r1"}
    access = next(line for line in lines if line["logger"] == "fmx.access")
    assert (access["status"], access["ms"], access["trace_id"]) == (200, 1.5, "0af7651916cd43dd8448eb211c80319c")
    assert [line for line in lines if line["message"] == "odd \\ud800 text"]
    assert "ValueError" in next(line for line in lines if line["message"] == "it failed")["exception"]


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "0af7651916cd43dd8448eb211c80319c"),
        ("", ""),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", ""),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", ""),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", ""),
        ("x" * 10_000, ""),
    ],
)
def test_traceparent_is_read_or_left(header: str, trace: str) -> None:
    assert trace_id_of(header) == trace
