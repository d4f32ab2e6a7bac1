from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fmx.errors import SurroundingsError
from serve.certificate import certificate_end

END = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)


def write_certificate(path: Path, end: datetime = END) -> None:
    """Write a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, end - timedelta(days=90), end).sign(key, hashes.SHA256())
    with path.open("ab") as file:
        file.write(made.public_bytes(Encoding.PEM))


def test_end_is_that_of_the_first_certificate_of_a_chain(tmp_path: Path) -> None:
    write_certificate(tmp_path / "tls.pem")
    write_certificate(tmp_path / "tls.pem", END + timedelta(days=1000))
    assert certificate_end(tmp_path / "tls.pem") == END.timestamp()


def test_file_that_holds_no_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SurroundingsError, match="cannot be read"):
        certificate_end(tmp_path / "none.pem")
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(SurroundingsError, match="no certificate") as caught:
        certificate_end(tmp_path / "key.pem")
    assert "FMX_TLS_CERTIFICATE" in caught.value.hint
