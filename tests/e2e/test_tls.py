"""TLS by BentoML's own options, with a certificate that signed itself; and what asks such a service."""

from __future__ import annotations

import datetime
import ipaddress
import json
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fmx.data import open_source
from fmx.package import Package
from tests.e2e.conftest import Fmx, runner, serving


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("image") / "digit.png"
    file.write_bytes(open_source("digits").splits["test"][0].read())
    return file


def write_certificate(folder: Path, *, password: bytes | None = None) -> tuple[Path, Path]:
    """Make a key and a certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fmx test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    certificate, secret = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return certificate, secret


@pytest.mark.parametrize("program", ["bentoml", "fmx"])
def test_prediction_over_tls(tmp_path: Path, light_package: Package, image: Path, program: str) -> None:
    certificate, secret = write_certificate(tmp_path)
    options = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(secret))
    with serving(tmp_path, light_package.folder, *options, program=program, certificate=str(certificate)) as server:
        assert server.url.startswith("https://")
        headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "image/png"}
        answer = httpx.post(f"{server.url}/v1/predict?top_k=3", content=image.read_bytes(), headers=headers, verify=server.trust)
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{server.url}/livez")
        fmx = runner(tmp_path)
        asked = ("predict", "--url", server.url, str(image), "--json")
        told = json.loads(fmx(*asked, FMX_KEY=server.key, SSL_CERT_FILE=str(certificate)).stdout)
        assert told["predictions"][0]["labels"] == answer.json()["predictions"][0]["labels"]
        refused = fmx(*asked, FMX_KEY=server.key)
        assert refused.returncode == 7
        assert "is not trusted" in refused.stderr
        assert "SSL_CERT_FILE" in refused.stderr


def test_certificate_that_cannot_serve_is_refused_before_the_start(fmx: Fmx, tmp_path: Path, light_package: Package) -> None:
    certificate, secret = write_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, strange = write_certificate(tmp_path / "other")
    (tmp_path / "locked").mkdir()
    _, locked = write_certificate(tmp_path / "locked", password=b"secret")
    for options, said in (
        (("--ssl-certfile", str(tmp_path / "none.pem")), "there is no file"),
        (("--ssl-certfile", str(certificate), "--ssl-keyfile", str(tmp_path / "none.pem")), "there is no file"),
        (("--ssl-keyfile", str(secret)), "--ssl-certfile"),
        (("--ssl-certfile", str(certificate)), "cannot serve TLS"),
        (("--ssl-certfile", str(certificate), "--ssl-keyfile", str(strange)), "cannot serve TLS"),
        (("--ssl-certfile", str(certificate), "--ssl-keyfile", str(locked)), "--ssl-keyfile-password"),
    ):
        result = fmx("serve", str(light_package.folder), *options)
        assert result.returncode == 2, result.stderr
        assert said in result.stderr
