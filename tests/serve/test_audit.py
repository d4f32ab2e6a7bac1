from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fmx.errors import DataError
from serve.audit import START, AuditLog, digest, verify_audit


def write(path: Path, count: int, name: str = "shop") -> None:
    log = AuditLog(path)
    for number in range(count):
        log.write(request_id=f"{name}-{number}", status=200, inputs=[digest(b"image")])
    log.close()


def test_chain_holds_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    write(path, 3)
    write(path, 2)
    found = verify_audit([path])
    assert (found.entries, found.begins) == (5, START)
    assert found.ends == json.loads(path.read_bytes().splitlines()[-1])["hash"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_several_workers_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    code = "import sys; from pathlib import Path; from serve.audit import AuditLog; log = AuditLog(Path(sys.argv[1]))\n"
    code += "for number in range(200): log.write(status=number)\nlog.close()"
    for worker in [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]:
        assert worker.wait() == 0
    assert verify_audit([path]).entries == 600


def changed(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b'"status":200', b'"status":403'), *lines[3:]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (changed, 3),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 2),
        (lambda lines: [*lines[:4], lines[4][:-20]], 5),
        (lambda lines: [*lines[:2], b"{}\n", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"[1]\n", *lines[2:]], 3),
    ],
)
def test_line_that_was_changed_taken_out_put_in_or_cut_is_told(tmp_path: Path, change: object, line: int) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 5)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))  # type: ignore[operator]
    with pytest.raises(DataError, match=f"line {line} "):
        verify_audit([path])


def test_rotated_file_goes_on(tmp_path: Path) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    log = AuditLog(path)
    log.write(status=200)
    while not path.exists() or not path.stat().st_size:
        pass
    os.rename(path, old)
    log.write(status=200)
    log.close()
    assert verify_audit([old, path]).entries == 2
    assert verify_audit([path]).begins == verify_audit([old]).ends


def test_two_workers_go_on_over_a_rotated_file(tmp_path: Path) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    write(path, 1, "a")
    write(path, 2, "b")
    os.rename(path, old)
    write(path, 1, "a")
    write(path, 1, "c")
    assert verify_audit([old, path]).entries == 5


def test_chain_goes_on_where_a_kill_left_the_head_behind(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 2)
    head = (tmp_path / "audit.jsonl.head").read_bytes()
    write(path, 1)
    (tmp_path / "audit.jsonl.head").write_bytes(head)
    write(path, 1)
    assert verify_audit([path]).entries == 4


def test_name_that_utf_8_cannot_hold_and_a_very_long_line_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.write(caller="\ud800")
    log.write(inputs=[digest(bytes(4))] * 2000)
    log.close()
    write(path, 1)
    assert verify_audit([path]).entries == 3


def test_torn_last_line_is_dropped_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    write(path, 1)
    assert verify_audit([path]).entries == 3


@pytest.mark.parametrize("content", [b"not a log\n", b'{"some": "other"}\n', b"line one\nimportant=1", b"important"])
def test_file_that_is_no_audit_log_is_left_alone_and_said(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(content)
    write(path, 3)
    assert path.read_bytes() == content
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1


def test_full_disk_costs_entries_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """Disk full: serving goes on, and says so."""
    log = AuditLog(Path("/dev/full"))
    for _ in range(3):
        log.write(status=200)
    log.close()
    assert [record for record in caplog.records if "serving goes on" in record.message]


def test_nothing_to_verify_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        verify_audit([tmp_path / "none"])
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="no entry"):
        verify_audit([tmp_path / "empty"])
