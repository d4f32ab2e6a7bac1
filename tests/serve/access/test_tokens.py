from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from fmx.errors import SurroundingsError
from serve.access import tokens
from serve.access.tokens import TokenVerifier
from serve.errors import UnauthorisedError

ISSUER, AUDIENCE = "https://login.example.com", "fmx"
KEYS: dict[str, tuple[Any, str, Any]] = {
    "rsa": (rsa.generate_private_key(65537, 2048), "RS256", RSAAlgorithm),
    "ec": (ec.generate_private_key(ec.SECP256R1()), "ES256", ECAlgorithm),
    "ed": (ed25519.Ed25519PrivateKey.generate(), "EdDSA", OKPAlgorithm),
}


def write_jwks(path: Path, *names: str) -> str:
    entries = [{**KEYS[name][2].to_jwk(KEYS[name][0].public_key(), as_dict=True), "kid": name, "use": "sig"} for name in names]
    path.write_text(json.dumps({"keys": entries}))
    return str(path)


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "web-shop", "exp": now + 60, "iat": now, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def token(name: str = "rsa", kid: str | None = None, **changes: Any) -> str:
    key, algorithm, _ = KEYS[name]
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid or name})


@pytest.fixture
def verifier(tmp_path: Path) -> TokenVerifier:
    return TokenVerifier(write_jwks(tmp_path / "jwks.json", *KEYS), issuer=ISSUER, audience=AUDIENCE, leeway_s=5)


@pytest.mark.parametrize("name", KEYS)
def test_signed_token_is_let_in(verifier: TokenVerifier, name: str) -> None:
    caller = verifier.verify(token(name, scope="openid fmx:predict metrics root"))
    assert (caller.id, caller.name, sorted(caller.scopes)) == ("token", "web-shop", ["metrics", "predict"])
    assert verifier.verify(token(name)).scopes == {"predict"}
    assert verifier.verify(token(name, scp=["metrics"])).scopes == {"metrics"}
    assert verifier.verify(token(name, scope="openid")).scopes == frozenset()
    assert verifier.verify(token(name, scope="admin fmx:predict")).scopes == {"predict"}  # another service's administrator
    assert verifier.verify(token(name, scope="fmx:admin")).scopes == {"admin"}


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"nbf": int(time.time()) + 3600},
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://evil.example.com"},
        {"iss": None},
        {"kid": "nobody"},
    ],
)
def test_token_that_is_not_for_now_or_not_for_us_is_refused(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    with pytest.raises(UnauthorisedError):
        verifier.verify(token(**changes))


def test_clocks_may_differ_by_the_leeway(verifier: TokenVerifier) -> None:
    assert verifier.verify(token(exp=int(time.time()) - 2)).id == "token"


def encoded(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_unsigned_token_is_refused(verifier: TokenVerifier) -> None:
    for algorithm in ("none", "None", "NONE"):
        with pytest.raises(UnauthorisedError):
            verifier.verify(f"{encoded({'alg': algorithm, 'kid': 'rsa'})}.{encoded(claims())}.")


def test_public_key_is_not_taken_for_a_secret(verifier: TokenVerifier) -> None:
    """The algorithm confusion of CVE-2015-9235: a token signed by HMAC with the public key that everybody has."""
    public = KEYS["rsa"][0].public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa'})}.{encoded(claims())}"
    signature = encoded(hmac.new(public, signed.encode(), hashlib.sha256).digest())
    with pytest.raises(UnauthorisedError):
        verifier.verify(f"{signed}.{signature}")


def test_key_of_another_type_is_refused(verifier: TokenVerifier) -> None:
    with pytest.raises(UnauthorisedError):
        verifier.verify(token("ec", kid="rsa"))


@pytest.mark.parametrize("text", ["a.b.c", "..", "é.ü.x", f"{encoded([1])}.{encoded([1])}.x", "x" * 100_000 + ".a.b"])
def test_what_is_no_token_is_refused(verifier: TokenVerifier, text: str) -> None:
    with pytest.raises(UnauthorisedError):
        verifier.verify(text)


def test_new_key_of_the_issuer_is_known_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jwks.json"
    verifier = TokenVerifier(write_jwks(path, "rsa"), issuer=None, audience=AUDIENCE, leeway_s=0)
    write_jwks(path, "ed")
    with pytest.raises(UnauthorisedError):
        verifier.verify(token("ed"))
    monkeypatch.setattr(tokens, "RETRY_SECONDS", 0.0)
    assert verifier.verify(token("ed")).id == "token"
    path.write_text("{")
    with pytest.raises(UnauthorisedError):
        verifier.verify(token("rsa"))
    assert verifier.verify(token("ed")).id == "token"


@pytest.mark.parametrize("content", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', '{"keys": [{"kty": "RSA"}]}', "[]"])
def test_jwks_without_a_usable_key_is_refused_at_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "jwks.json").write_text(content)
    with pytest.raises(SurroundingsError):
        TokenVerifier(str(tmp_path / "jwks.json"), issuer=None, audience=AUDIENCE, leeway_s=0)


def test_key_that_cannot_be_used_costs_neither_the_others_nor_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    write_jwks(path, "rsa")
    other = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
    odd = [{**other, "kid": "p384"}, {"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "x"}, {"kty": "RSA", "kid": "broken"}]
    path.write_text(json.dumps({"keys": [*odd, *json.loads(path.read_text())["keys"]]}))
    verifier = TokenVerifier(str(path), issuer=None, audience=AUDIENCE, leeway_s=0)
    assert verifier.verify(token("rsa")).id == "token"
    for kid in ("p384", "x", "broken"):
        with pytest.raises(UnauthorisedError):
            verifier.verify(f"{encoded({'alg': 'ES256', 'kid': kid})}.{encoded(claims())}.{encoded(b'x' * 64)}")
