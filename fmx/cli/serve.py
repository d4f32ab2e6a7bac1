"""`fmx serve`: a thin wrapper that sets `FMX_...` variables and becomes `bentoml serve`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def serve(
    package: Annotated[str | None, typer.Argument(help="A package's folder or name.", show_default="FMX_PACKAGE or latest")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes.", show_default="FMX_WORKERS or 1")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="FMX_DEVICE or auto")] = None,
) -> None:
    """Serve a package over HTTP.

    Example: fmx serve latest --port 8080
    """
    import importlib.util

    from fmx.errors import missing_extra
    from fmx.package import find_package

    if importlib.util.find_spec("bentoml") is None:
        raise missing_extra("cpu,serve", "Serving")
    _check_port_free(host, port)
    os.environ["FMX_PACKAGE"] = str(find_package(package or os.environ.get("FMX_PACKAGE")).resolve())
    if workers is not None:
        os.environ["FMX_WORKERS"] = str(workers)
    if device is not None:
        os.environ["FMX_DEVICE"] = device
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    command = [sys.executable, "-m", "bentoml", "serve", "serve.service:FmxService", "--host", host, "--port", str(port)]
    os.execv(sys.executable, command)


def _check_port_free(host: str, port: int) -> None:
    import socket

    from fmx.errors import SurroundingsError

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as reason:
            raise SurroundingsError(f"{host}:{port} cannot be listened on ({reason.strerror}).", hint="Choose another --port.") from reason
