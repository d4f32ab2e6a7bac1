"""Signatures of packages, through the model-signing library (OpenSSF): made with a private key, or with a key and its certificate chain.

A package's hashes find damage; a signature finds who exported it. It lies in the package, outside what it signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmx.errors import PackageError, UsageError, foreign_errors, missing_extra
from fmx.package import SIGNATURE, UNHASHED, load_package

IGNORED = tuple(name for name in UNHASHED if name != "manifest.json")
"""manifest.json is signed, though it is in no hash of its own."""


def sign_package(folder: Path, private_key: Path, *, certificate: Path | None = None, chain: Sequence[Path] = ()) -> Path:
    """Sign a package whose every hash holds, and give the signature's file.

    Args:
        folder: of the package.
        private_key: an elliptic-curve key (P-256, P-384, P-521) as PEM, without a password.
        certificate: of the key; a signature with it can be verified from the chain's root alone.
        chain: intermediate certificates up to the root.

    Raises:
        PackageError: damaged or altered.
        UsageError: the key or a certificate cannot be used.
    """
    load_package(folder)
    for path in (private_key, *([certificate] if certificate else []), *chain):
        _check_file(path)
    signing = _library("signing")
    with foreign_errors(UsageError, f"{private_key} cannot sign", "It must be an elliptic-curve key (prime256v1, say) as PEM."):
        config = signing.Config().set_hashing_config(_hashing(folder))
        if certificate is None:
            config = config.use_elliptic_key_signer(private_key=private_key)
        else:
            config = config.use_certificate_signer(private_key=private_key, signing_certificate=certificate, certificate_chain=list(chain))
        config.sign(folder, folder / SIGNATURE)
    return folder / SIGNATURE


def verify_signature(folder: Path, *, public_key: Path | None = None, chain: Sequence[Path] = ()) -> None:
    """Check that a package is what the holder of a key signed.

    Args:
        folder: of the package.
        public_key: as PEM.
        chain: in place of a key, the certificates that are trusted (a root, with intermediates).

    Raises:
        PackageError: not signed, signed by another, or altered since.
        UsageError: neither a key nor a chain.
    """
    if (public_key is None) == (not chain):
        raise UsageError("A signature is verified with a public key, or with trusted certificates.", hint="Give one of the two.")
    for path in (*([public_key] if public_key else []), *chain):
        _check_file(path)
    if not (folder / SIGNATURE).is_file():
        raise PackageError(f"{folder.name} is not signed.", hint="fmx sign PACKAGE --key KEY.pem")
    verifying = _library("verifying")
    config = verifying.Config().set_hashing_config(_hashing(folder))
    with foreign_errors(PackageError, f"The signature of {folder.name} does not hold", "It was altered, or signed by somebody else."):
        if public_key is not None:
            config = config.use_elliptic_key_verifier(public_key=public_key)
        else:
            config = config.use_certificate_verifier(certificate_chain=list(chain))
        config.verify(folder, folder / SIGNATURE)


def _hashing(folder: Path) -> Any:
    return _library("hashing").Config().set_ignored_paths(paths=[folder / name for name in IGNORED], ignore_git_paths=False)


def _library(part: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{part}")
    except ImportError as error:
        raise missing_extra("sign", "Signing") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", hint="openssl ecparam -genkey -name prime256v1 -noout -out key.pem makes a key.")
