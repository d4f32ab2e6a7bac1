"""`fmx serve`: a thin wrapper that sets `FMX_...` variables and becomes `bentoml serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep an idle connection (60 s): who closes first must not be us, or a request meets a closed door."""


def serve(
    package: Annotated[str | None, typer.Argument(help="A package's folder or name.", show_default="FMX_PACKAGE or latest")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes.", show_default="FMX_WORKERS or 1")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="FMX_DEVICE or auto")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate (PEM), to serve over TLS.", show_default="no TLS")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its private key (PEM).", show_default="in the certificate's file")] = None,
) -> None:
    """Serve a package over HTTP.

    Example: fmx serve latest --port 8080
    """
    import importlib.util

    from fmx.errors import missing_extra
    from fmx.package import find_package

    if importlib.util.find_spec("bentoml") is None:
        raise missing_extra("cpu,serve", "Serving")
    _check_certificate(ssl_certfile, ssl_keyfile)
    _check_port_free(host, port)
    find_package(package or os.environ.get("FMX_PACKAGE"))  # it must be there; where it leads to may change while it is served
    if package is not None:
        os.environ["FMX_PACKAGE"] = package
    if workers is not None:
        os.environ["FMX_WORKERS"] = str(workers)
    if device is not None:
        os.environ["FMX_DEVICE"] = device
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    command = [sys.executable, "-m", "bentoml", "serve", "serve.service:FmxService", "--host", host, "--port", str(port)]
    command += ["--timeout-keep-alive", str(KEEP_ALIVE_SECONDS)]
    for option, file in (("--ssl-certfile", ssl_certfile), ("--ssl-keyfile", ssl_keyfile)):
        if file is not None:
            command += [option, str(file.resolve())]
    os.execv(sys.executable, command)


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Refuse what no TLS can be served with, before workers fail on it one after another. Raises: `UsageError`."""
    import ssl

    from fmx.errors import UsageError

    for option, file in (("--ssl-certfile", certificate), ("--ssl-keyfile", key)):
        if file is not None and not file.is_file():
            raise UsageError(f"{option}: there is no file {file}.", hint="Give PEM files of a certificate and its private key.")
    if certificate is None:
        if key is not None:
            raise UsageError("--ssl-keyfile is nothing without --ssl-certfile.", hint="Give the certificate too.")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as reason:
        raise UsageError(
            f"{certificate} and {key or 'the key in it'} cannot serve TLS ({reason}).",
            hint="They must be PEM and belong together. For a key with a password: bentoml serve --ssl-keyfile-password ...",
        ) from reason


def _check_port_free(host: str, port: int) -> None:
    import socket

    from fmx.errors import SurroundingsError

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as reason:
            raise SurroundingsError(f"{host}:{port} cannot be listened on ({reason.strerror}).", hint="Choose another --port.") from reason
