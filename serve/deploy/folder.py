"""The folder that `fmx deploy` leaves: whole or not at all, and never in place of something that it did not write."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from fmx import host, storage
from fmx.errors import UsageError
from serve.deploy.compose import compose_text
from serve.deploy.image import write_image
from serve.deploy.kubernetes import write_kubernetes
from serve.deploy.plan import AUTOSCALERS, KEYS_FOLDER, PORT, STATE, Plan, facts
from serve.deploy.pod import mebibytes
from serve.deploy.prometheus import write_grafana, write_prometheus
from serve.deploy.requirements import DISTRIBUTION
from serve.deploy.runbook import runbook
from serve.deploy.text import json_text, render

RECORD = "deploy.json"
"""What was computed from what; also the sign that a folder is one of ours."""
KEYS = "keys"
"""Whoever deploys puts key files here, so a folder that is replaced keeps it."""


def check_target(target: Path, package: Path, *, force: bool) -> None:
    """Check, before any work, that the folder may be written.

    Raises:
        UsageError: something is in it, and `force` is false or fmx deploy did not write it; or it lies in the package, or the package in it.
    """
    inside, outside = target.resolve(), package.resolve()
    if inside == outside or inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise UsageError(f"{target} and the package lie in each other.", hint="Choose another folder with --out.")
    if not target.exists() or _is_empty(target):
        return
    if not (target / RECORD).is_file():
        raise UsageError(f"{target} is there, and not of fmx deploy's making.", hint="Choose a new or empty folder with --out.")
    if not force:
        raise UsageError(f"{target} is not empty.", hint="Replace what fmx deploy wrote there with --force (keys/ is kept), or choose another --out.")


def write_folder(plan: Plan, target: Path, *, force: bool = False) -> None:
    """Write everything.

    Raises:
        UsageError: see `check_target`.
        PackageError, SurroundingsError: see `serve.deploy.image.write_image`.
    """
    check_target(target, plan.package.folder, force=force)
    target = target.resolve()
    with storage.new_folder(target, force=force or _is_empty(target)) as working:
        write_image(plan, working)
        write_kubernetes(plan, working / "kubernetes")
        write_prometheus(plan, working / "prometheus")
        write_grafana(plan, working / "grafana")
        (working / "compose.yaml").write_text(compose_text(plan))
        (working / "RUNBOOK.md").write_text(runbook(plan))
        (working / "README.md").write_text(_readme(plan))
        record = {"fmx": version(DISTRIBUTION), "written": host.now(), **facts(plan)}
        (working / RECORD).write_text(json_text(record))
        _let_everybody_read(working)
        if (target / KEYS).is_dir():
            (target / KEYS).rename(working / KEYS)  # the folder itself: a running container has it mounted


def _let_everybody_read(folder: Path) -> None:
    """Open what a strict umask has closed: containers run as users of their own. Nothing in the folder is secret; keys are put there later."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _readme(plan: Plan) -> str:
    request, limit = (mebibytes(count) for count in plan.memory_bytes)
    words = {"keys": KEYS_FOLDER, "port": PORT, "state": STATE, "request": request, "limit": limit}
    return render("README.md.j2", plan=plan, autoscalers=AUTOSCALERS, **words)
