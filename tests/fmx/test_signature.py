from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fmx.errors import PackageError, UsageError
from fmx.package import Package, load_package
from fmx.signature import sign_package, verify_signature


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def package(light_package: Package, tmp_path: Path) -> Path:
    return Path(shutil.copytree(light_package.folder, tmp_path / "package"))


def test_signature_holds_for_its_key_and_no_other(package: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ours")
    _, other = write_keys(tmp_path, "other")
    with pytest.raises(PackageError, match="not signed"):
        verify_signature(package, public_key=public)
    sign_package(package, private)
    digest = load_package(package).digest
    verify_signature(package, public_key=public)
    with pytest.raises(PackageError, match="does not hold"):
        verify_signature(package, public_key=other)
    (package / "measurements").mkdir()
    (package / "measurements" / "host.json").write_text("{}")
    verify_signature(package, public_key=public)  # facts of a host are no part of it
    assert load_package(package).digest == digest


def test_a_manifest_that_was_rewritten_with_its_hashes_is_found_by_the_signature(package: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "ours")
    sign_package(package, private)
    manifest = package / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"method": "linear-probe"', '"method": "finetune"'))
    load_package(package)  # the hashes hold
    with pytest.raises(PackageError, match="does not hold"):
        verify_signature(package, public_key=public)


def test_damaged_package_is_not_signed(package: Path, tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path, "ours")
    (package / "golden.npz").write_bytes(b"")
    with pytest.raises(PackageError):
        sign_package(package, private)
    assert not (package / "signature.json").exists()


def test_what_is_no_key_is_refused(package: Path, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(UsageError, match="cannot sign"):
        sign_package(package, tmp_path / "no.pem")
    with pytest.raises(UsageError, match="There is no file"):
        sign_package(package, tmp_path / "absent.pem")
    with pytest.raises(UsageError, match="public key, or"):
        verify_signature(package)


def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, is_root: bool) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_root,
                crl_sign=is_root,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def test_signature_with_a_certificate_is_verified_from_its_root(package: Path, tmp_path: Path) -> None:
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    files = {"root": certificate("root", root_key, "root", root_key, is_root=True), "leaf": certificate("us", key, "root", root_key, is_root=False)}
    for name, made in files.items():
        (tmp_path / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    sign_package(package, tmp_path / "key.pem", certificate=tmp_path / "leaf.crt", chain=[tmp_path / "root.crt"])
    verify_signature(package, chain=[tmp_path / "root.crt"])
    stranger = ec.generate_private_key(ec.SECP256R1())
    strange = certificate("root", stranger, "root", stranger, is_root=True)
    (tmp_path / "strange.crt").write_bytes(strange.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(PackageError, match="does not hold"):
        verify_signature(package, chain=[tmp_path / "strange.crt"])
