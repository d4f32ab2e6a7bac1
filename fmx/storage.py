"""Files and folders that appear whole or not at all, the `latest` pointers, and hashes of files.

A reader never sees a half-written file: everything is written beside its target, flushed to disk and renamed into place.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmx.errors import UsageError, disk_errors

LATEST = "latest"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def home() -> Path:
    """Return the folder that holds `runs/` and `packages/`: `FMX_HOME`, or the current folder."""
    return Path(os.environ.get("FMX_HOME") or ".")


def cache_home() -> Path:
    """Return where derived data are kept, which may be deleted at any time: `FMX_CACHE`, or `.fmx/cache` in `FMX_HOME`."""
    return Path(os.environ.get("FMX_CACHE") or home() / ".fmx" / "cache")


def check_name(name: str) -> str:
    """Return a run or package name that is safe as a folder name.

    Raises:
        UsageError: for path separators, a leading dot, other characters than letters, digits, `.`, `_`, `-`, or the name `latest`.
    """
    if not _NAME.fullmatch(name) or name == LATEST:
        raise UsageError(f"{name!r} cannot be a name.", hint="Use letters, digits, dots, dashes and underscores; 'latest' is taken.")
    return name


def stem_of(model: str) -> str:
    """Return what a run or package of a base model is called before its number: of a folder or a hub's OWNER/NAME the last part."""
    last = model.removeprefix("timm:").removeprefix("run:").rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"


def next_name(folder: Path, stem: str) -> str:
    """Return `<stem>-<n>` with the lowest n above every one that exists in `folder`."""
    taken = [int(match[1]) for path in folder.glob(f"{stem}-*") if (match := re.fullmatch(re.escape(stem) + r"-(\d+)", path.name))]
    return f"{stem}-{max(taken, default=0) + 1}"


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file atomically: a kill at any moment leaves the old content or the new. The mode is cut by the umask, as for any file."""
    with disk_errors(f"writing {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            name.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode(), mode)


def check_free(target: Path, *, force: bool = False) -> None:
    """Check, before any work, that a run or package may take this name. Raises: `UsageError`."""
    if target.exists() and not force:
        raise UsageError(f"{target} exists.", hint="Choose another --name, or remove it first.")


@contextmanager
def new_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty working folder that becomes `target` when the block ends, and vanishes when the block raises.

    Raises:
        UsageError: `target` exists and `force` is false.
    """
    check_free(target, force=force)
    with disk_errors(f"writing {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield working
            working.chmod(0o755)
            _swap(working, target, force=force)
        except BaseException:
            shutil.rmtree(working, ignore_errors=True)
            raise


def _swap(working: Path, target: Path, *, force: bool) -> None:
    check_free(target, force=force)  # another command may have taken the name meanwhile
    if not target.exists():
        os.rename(working, target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    os.rename(target, old / target.name)
    try:
        os.rename(working, target)
    except BaseException:
        os.rename(old / target.name, target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def point_latest(target: Path) -> None:
    """Make `latest`, a one-line text file beside `target`, name it."""
    write_text(target.parent / LATEST, target.name + "\n")


def resolve(given: str | Path | None, kind: str, marker: str) -> Path:
    """Find a run or package folder from a path, a name, `latest`, or the path of a `latest` file.

    Args:
        given: what the user said; None means latest.
        kind: `runs` or `packages`, the folder under `home()` that is searched for names.
        marker: the file that makes a folder one of that kind (`run.json`, `manifest.json`).

    Raises:
        UsageError: nothing is there, or it is not of that kind.
    """
    one = kind.removesuffix("s")
    maker = {"runs": "fmx train", "packages": "fmx export"}[kind]
    given = str(given) if given is not None else LATEST
    candidates = [Path(given), home() / kind / given]
    for candidate in candidates:
        if candidate.is_file() and candidate.name == LATEST:
            pointed = candidate.parent / candidate.read_text().strip()
            if (pointed / marker).is_file():
                return pointed
            raise UsageError(f"{candidate} names {pointed.name!r}, which is no {one}.", hint=f"Name one, or make one with: {maker}")
        if (candidate / marker).is_file():
            return candidate
    if given == LATEST:
        raise UsageError(f"There is no {one} yet in {home() / kind}.", hint=f"Make one with: {maker}")
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is not None:
        raise UsageError(f"{found} is no {one}: it holds no {marker}.", hint=f"Make one with: {maker}")
    known = sorted(path.parent.name for path in (home() / kind).glob(f"*/{marker}"))
    raise UsageError(f"No {one} {given!r}.", hint=f"Known: {', '.join(known)}" if known else f"Make one with: {maker}")


def sha256_bytes(data: bytes) -> str:
    """Return the hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
