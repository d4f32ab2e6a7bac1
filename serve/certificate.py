"""When the service's TLS certificate ends. Serving it is uvicorn's work (`bentoml serve --ssl-certfile`), which reads it at the start alone."""

from __future__ import annotations

from pathlib import Path

from fmx.errors import SurroundingsError


def certificate_end(path: Path) -> float:
    """Give the second since 1970 in which a certificate ends; of a chain, its first.

    Raises:
        SurroundingsError: no such file, or no certificate in it.
    """
    from cryptography import x509  # it takes megabytes in every process

    hint = "FMX_TLS_CERTIFICATE names a PEM file: the one that bentoml serve --ssl-certfile is given."
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        raise SurroundingsError(f"The certificate {path} cannot be read ({error.strerror}).", hint=hint) from error
    except ValueError as error:
        raise SurroundingsError(f"There is no certificate in {path}.", hint=hint) from error
    return certificate.not_valid_after_utc.timestamp()
