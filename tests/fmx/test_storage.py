from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fmx import storage
from fmx.errors import SurroundingsError, UsageError


def test_folder_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "a-1"
    with storage.new_folder(target) as working:
        (working / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert [path.name for path in target.parent.iterdir()] == ["a-1"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), storage.new_folder(tmp_path / "runs" / "a-1") as working:
        (working / "file").write_text("x")
        raise error
    assert list((tmp_path / "runs").iterdir()) == []


def test_replacing_keeps_the_old_folder_when_the_block_raises(tmp_path: Path) -> None:
    target = tmp_path / "p"
    target.mkdir()
    (target / "old").write_text("x")
    with pytest.raises(RuntimeError), storage.new_folder(target, force=True):
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    with storage.new_folder(target, force=True) as working:
        (working / "new").write_text("y")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="exists"), storage.new_folder(tmp_path / "a"):
        pass


def test_full_disk_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match="disk is full") as caught, storage.new_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


def test_names_count_on_from_the_highest(tmp_path: Path) -> None:
    for name in ("m-1", "m-7", "m-x", "other-9"):
        (tmp_path / name).mkdir()
    assert storage.next_name(tmp_path, "m") == "m-8"


@pytest.mark.parametrize("name", ["latest", "../x", "a/b", ".hidden", "", "a b", "x" * 101])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        storage.check_name(name)


def test_latest_is_found_by_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FMX_HOME")
    folder = tmp_path / "packages" / "m-1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    storage.point_latest(folder)
    for given in (None, "latest", "packages/latest", "m-1", "packages/m-1", str(folder)):
        assert storage.resolve(given, "packages", "manifest.json").resolve() == folder


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "stuff").mkdir()
    with pytest.raises(UsageError, match=r"is no run: it holds no run\.json"):
        storage.resolve(tmp_path / "stuff", "runs", "run.json")
    with pytest.raises(UsageError, match="There is no run yet"):
        storage.resolve(None, "runs", "run.json")


def test_latest_that_names_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").write_text("gone\n")
    with pytest.raises(UsageError, match="gone"):
        storage.resolve(None, "runs", "run.json")


def test_name_that_another_command_took_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "m-1"
    with pytest.raises(UsageError, match="exists"), storage.new_folder(target), storage.new_folder(target) as inner:
        (inner / "first").write_text("x")
    assert [path.name for path in target.iterdir()] == ["first"]


def test_file_has_the_mode_of_any_file_unless_it_is_secret(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    storage.write_text(tmp_path / "ours", "")
    storage.write_text(tmp_path / "secret", "", 0o600)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("plain", "ours", "secret")]
    assert modes == [modes[0], modes[0], 0o600]
