from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fmx.errors import SurroundingsError, UsageError
from serve import metrics
from serve.access import keyring
from serve.access.keyring import KeyRing
from serve.access.keys import create_key, last_uses, make_first_key, read_keys, revoke_key, rotate_key


def test_key_is_known_until_it_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "REREAD_SECONDS", 0.0)
    path = tmp_path / "keys.json"
    key, text = create_key(path, "shop")
    ring = KeyRing(path)
    assert ring.identify(text) == key
    _, later = create_key(path, "app")
    assert ring.identify(later) is not None
    revoke_key(path, "shop")
    assert ring.identify(text) is None
    assert ring.identify(later) is not None


@pytest.mark.parametrize("wrong", ["", "fmx", "fmx_", "fmx__", "fmx_00000000_x", "x" * 10_000, "fmx_é_ü", "\ud800"])
def test_wrong_keys_are_not_known(tmp_path: Path, wrong: str) -> None:
    _, text = create_key(tmp_path / "keys.json", "shop")
    ring = KeyRing(tmp_path / "keys.json")
    assert ring.identify(wrong) is None
    assert ring.identify(text[:-1]) is None
    assert ring.identify(text + "x") is None


def test_only_the_hash_is_on_disk_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    _, text = create_key(path, "shop")
    assert text.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_that_vanishes_under_a_service_opens_nothing_and_closes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "REREAD_SECONDS", 0.0)
    path = tmp_path / "keys.json"
    _, text = create_key(path, "shop")
    ring = KeyRing(path)
    path.unlink()
    assert ring.identify(text) is not None
    assert ring.identify("fmx_00000000_x") is None


def test_live_name_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    create_key(path, "shop")
    with pytest.raises(UsageError, match="live key"):
        create_key(path, "shop")
    revoke_key(path, "shop")
    create_key(path, "shop")
    assert len(read_keys(path)) == 2


def test_revoking_what_is_not_there_names_the_live_ones(tmp_path: Path) -> None:
    create_key(tmp_path / "keys.json", "shop")
    with pytest.raises(UsageError) as caught:
        revoke_key(tmp_path / "keys.json", "shopp")
    assert "shop (" in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"id": 1}]}'])
def test_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(SurroundingsError, match="cannot be read"):
        KeyRing(tmp_path / "keys.json")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match="no key file"):
        KeyRing(tmp_path / "keys.json")


def test_first_key_is_made_once_however_many_processes_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    code = f"from pathlib import Path; from serve.access.keys import make_first_key; print(make_first_key(Path({str(path)!r})) or '')"
    starters = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    shown = [text for starter in starters if (text := starter.communicate()[0].strip())]
    assert len(shown) == 1
    assert KeyRing(path).identify(shown[0]) is not None
    assert make_first_key(path) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["keys.json", "last-use"]


def test_two_commands_at_once_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    code = f"import sys; from pathlib import Path; from serve.access.keys import create_key; create_key(Path({str(path)!r}), sys.argv[1])"
    for process in [subprocess.Popen([sys.executable, "-c", code, f"client-{i}"]) for i in range(6)]:
        assert process.wait() == 0
    assert len(json.loads(path.read_text())["keys"]) == 6


def test_rotated_key_has_the_same_rights_and_the_old_one_is_good_for_the_overlap_yatai_219(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yatai#219, OpenLLM#1201: no rotation anywhere; a changed key cut everybody off at once."""
    monkeypatch.setattr(keyring, "REREAD_SECONDS", 0.0)
    path = tmp_path / "keys.json"
    first, old_text = create_key(path, "shop", scopes=("predict", "metrics"), expires="90d", rate="10/second", quota=1000)
    ring = KeyRing(path)
    second, new_text, old = rotate_key(path, "shop", "1h")
    assert (second.name, second.scopes, second.rate, second.quota) == ("shop", first.scopes, "10/second", 1000)
    assert abs(second.expires_at() - first.expires_at()) < 60
    assert old.expires_at() < first.expires_at()
    assert ring.identify(old_text) is not None
    assert ring.identify(new_text) is not None
    rotate_key(path, second.id, "0s")
    assert ring.identify(new_text) is None
    assert ring.identify(old_text) is not None


def test_key_ends_when_it_was_said_to_end_without_a_change_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, text = create_key(tmp_path / "keys.json", "shop", expires="2s")
    ring = KeyRing(tmp_path / "keys.json")
    assert ring.identify(text) is not None
    assert ring.next_expiry == key.expires_at()
    monkeypatch.setattr("time.time", key.expires_at)
    assert ring.identify(text) is None
    assert ring.next_expiry == float("inf")


def ends() -> dict[str, float]:
    found = re.findall(r'^fmx_key_expires_timestamp_seconds\{key="(\w+)"\} (\S+)$', metrics.render().decode(), re.MULTILINE)
    return {key: float(end) for key, end in found}


def test_metrics_tell_when_live_keys_end_and_forget_revoked_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "REREAD_SECONDS", 0.0)
    before = ends().keys()
    path = tmp_path / "keys.json"
    create_key(path, "for ever")
    shop, _ = create_key(path, "shop", expires="90d")
    ring = KeyRing(path)
    assert {key: end for key, end in ends().items() if key not in before} == {shop.id: shop.expires_at()}
    revoke_key(path, "shop")
    assert shop.id in ends()
    ring.refresh()
    assert shop.id not in ends()


MORE: list[dict[str, Any]] = [
    {"expires": "2001-01-01"},
    {"expires": "0026-12-31"},
    {"expires": "9999-12-31T23:59:59-12:00"},
    {"rate": "0/second"},
    {"rate": "10/second; 5/minute"},
]


@pytest.mark.parametrize(
    "given",
    [{"scopes": ("root",)}, {"scopes": ()}, {"expires": "soon"}, {"expires": "9999999w"}, {"rate": "10"}, {"rate": "x/second"}, {"quota": 0}, *MORE],
)
def test_rights_that_are_none_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        create_key(tmp_path / "keys.json", "shop", **given)
    assert not (tmp_path / "keys.json").exists()


def test_last_use_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, text = create_key(path, "shop")
    create_key(path, "app")
    assert last_uses(path) == {}
    KeyRing(path).identify(text)
    assert list(last_uses(path)) == [key.id]


def test_key_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    entry = {"id": "0a1b2c3d", "name": "shop", "sha256": "0" * 64, "created": "2026-11-01T00:00:00Z", "revoked": None}
    (tmp_path / "keys.json").write_text(json.dumps({"version": 1, "keys": [entry]}))
    (key,) = read_keys(tmp_path / "keys.json")
    assert key.scopes == ("predict",)
    assert key.is_live(0.0)
