"""The BentoML service: its packaging and process model, with our guard and our routes outside. bentofile.yaml names it."""

from __future__ import annotations

import os
import sys
from typing import Any

import bentoml
from starlette.types import ASGIApp

from fmx.errors import FmxError
from fmx.package import load_package
from fmx.tasks import TASKS, ImageClassification, Task
from serve import metrics, tracing
from serve.access.gate import Gate, token_verifier
from serve.access.keys import make_first_key, read_keys
from serve.app import build_routes
from serve.certificate import certificate_end
from serve.client_schema import client_endpoint
from serve.crew import Crew
from serve.engine import Engine
from serve.guard import Guard
from serve.logs import set_up_logs
from serve.scaling.scaler import Scaler
from serve.settings import key_path, load_settings, package_path
from serve.shadow import find_shadow
from serve.watch import Watch


class GuardedService(bentoml.Service[Any]):  # type: ignore[misc]  # bentoml loads it lazily, so its type is unknown
    """A BentoML service whose ASGI app is wrapped outermost, before BentoML's own middleware."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Build the app of one worker."""
        settings = load_settings()
        engine = Engine(settings)
        scaler = Scaler(settings)
        if settings.tls_certificate is not None:
            metrics.certificate_expires.set(certificate_end(settings.tls_certificate))
        set_up_logs(settings.log_format)
        crew = Crew()
        watch = Watch(engine, crew, settings)
        routes = build_routes(engine, scaler, crew, settings)
        return Guard(super().to_asgi(is_main), routes, engine, watch, Gate(settings), scaler, settings)

    def schema(self) -> dict[str, Any]:
        """Describe the service in a bento as /schema.json does."""
        return {**super().schema(), "routes": [client_endpoint(_packed_task())]}


def _packed_task() -> type[Task]:
    """Give the task of the package that would be served; of images where there is none yet."""
    try:
        return TASKS[load_package(package_path(load_settings())).manifest.task]
    except (FmxError, KeyError):
        return ImageClassification


def check_before_start() -> None:
    """Check settings, keys and package once, in the first process, before any worker starts. Raises: `FmxError`."""
    settings = load_settings()
    package = load_package(package_path(settings))
    if settings.shadow is not None:
        find_shadow(settings.shadow, package)
    if settings.tls_certificate is not None:
        certificate_end(settings.tls_certificate)
    if tracing.is_wanted():
        tracing.open_exporter()
    if settings.auth == "off":
        print("fmx: FMX_AUTH=off: everybody who reaches this port may use the model.", file=sys.stderr, flush=True)
        return
    path = key_path(settings)
    new = make_first_key(path) if settings.keys_file is None else None
    read_keys(path)
    token_verifier(settings)
    if new:
        print(f"fmx: no keys were configured, so one was made. It is shown this once:\n\n    {new}\n", file=sys.stderr)
        print(f"fmx: its hash is kept in {path}; fmx keys create NAME makes others.", file=sys.stderr, flush=True)


def have_workers_replaced() -> None:
    """Let BentoML replace a worker that dies also in a container, where it would leave the others alone, at part of the strength, for ever.

    It asks this variable when it makes its supervisor (`bentoml/serving.py`, `create_watcher`), which is after our check.
    """
    os.environ.pop("BENTOML_CONTAINERIZED", None)


def _workers() -> int:
    try:
        return load_settings().workers
    except FmxError:
        return 1  # the check before the start says what is wrong, and nothing starts


@bentoml.service(
    name="fmx",
    service_class=GuardedService,
    workers=_workers(),
    traffic={"timeout": 3600},  # deadlines are the engine's: BentoML's would free a slot while its work goes on
    metrics={"enabled": False},  # BentoML's label by raw path
    logging={"access": {"enabled": False}},  # ours knows callers and request ids, and masks
)
class FmxService:
    """Serves a model package; `POST /v1/predict`."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def check() -> None:
        """Refuse to start, with a message and an exit code, rather than let workers fail one after another."""
        try:
            check_before_start()
            have_workers_replaced()
        except FmxError as error:
            print(f"fmx: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"     {error.hint}", file=sys.stderr)
            sys.stderr.flush()
            sys.exit(error.exit_code)
