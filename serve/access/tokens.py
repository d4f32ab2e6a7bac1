"""Signed tokens (JWT) of somebody else's identity provider: RS256, ES256 and EdDSA, keys from a JWKS file or URL.

A token's own header never chooses how it is checked: the algorithm must be the one of the key that signed it, so neither `none` nor a public
key taken for an HMAC secret gets in.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import jwt

from fmx.errors import SurroundingsError
from serve.access.caller import Caller
from serve.access.keys import SCOPES
from serve.errors import UnauthorisedError

ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
"""By a key's type and curve; keys of other kinds are passed over."""
REFRESH_SECONDS = 300.0
RETRY_SECONDS = 30.0
"""How often, at most, an unknown key id makes the keys be read anew."""
FETCH_SECONDS = 5.0
MOST_BYTES = 1_000_000
log = logging.getLogger("fmx.serve")


class TokenVerifier:
    """Verifies tokens against one issuer's keys. `verify` may read a file or a URL, so it is called in a thread."""

    def __init__(self, jwks: str, *, issuer: str | None, audience: str | None, leeway_s: float) -> None:
        self._source = jwks
        self._issuer, self._audience, self._leeway_s = issuer, audience, leeway_s
        self._lock = threading.Lock()
        self._keys = self._read()
        self._read_at = time.monotonic()

    @staticmethod
    def looks_like_token(text: str) -> bool:
        """Say whether a credential has a token's form; it is then not looked up as a key."""
        return text.count(".") == 2 and not text.startswith("fmx_")

    def verify(self, text: str) -> Caller:
        """Verify a token.

        Raises:
            UnauthorisedError: unsigned, signed by another key, expired, not yet valid, or for somebody else; without saying more than that.
        """
        try:
            key_id = jwt.get_unverified_header(text).get("kid")
            key = self._key(key_id)
            required = ["exp", *(["iss"] if self._issuer else []), *(["aud"] if self._audience else [])]
            claims = jwt.decode(
                text,
                key=key.key,
                algorithms=[str(key.algorithm_name)],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={"require": required, "verify_aud": self._audience is not None},
            )
        except (jwt.PyJWTError, KeyError, ValueError, TypeError) as error:
            log.info("A token was refused: %s", type(error).__name__)
            raise UnauthorisedError("This token is not valid here.", hint="It must be signed, live, and for this service.") from None
        return Caller(id="token", name=str(claims.get("sub", ""))[:200], scopes=_scopes(claims))

    def _key(self, key_id: object) -> jwt.PyJWK:
        """Find the key of an id; a set with one key needs none. Raises: KeyError."""
        now = time.monotonic()
        found = self._find(key_id)
        if now - self._read_at > (RETRY_SECONDS if found is None else REFRESH_SECONDS):
            self._refresh(now)
            found = self._find(key_id)
        if found is None:
            raise KeyError("kid")
        return found

    def _find(self, key_id: object) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(str(key_id))

    def _refresh(self, now: float) -> None:
        """Read the keys anew; where that fails they stay as they were."""
        with self._lock:
            if now < self._read_at:
                return
            self._read_at = time.monotonic()
            try:
                self._keys = self._read()
            except SurroundingsError as error:
                log.error("The keys of tokens stay as they were: %s", error.message)

    def _read(self) -> dict[str, jwt.PyJWK]:
        try:
            entries: list[dict[str, Any]] = json.loads(self._fetch())["keys"]
            keys = {str(entry.get("kid", "")): key for entry in entries if (key := _usable(entry)) is not None}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SurroundingsError(
                f"The token keys {self._source} cannot be read ({error}).", hint="FMX_JWT_JWKS names a JWKS file or URL."
            ) from error
        if not keys:
            raise SurroundingsError(f"{self._source} holds no RSA, P-256 or Ed25519 key.", hint="Tokens are RS256, ES256 or EdDSA.")
        return keys

    def _fetch(self) -> bytes:
        if not self._source.startswith(("https://", "http://")):
            return Path(self._source).read_bytes()
        with urllib.request.urlopen(self._source, timeout=FETCH_SECONDS) as answer:
            return bytes(answer.read(MOST_BYTES))


def _usable(entry: dict[str, Any]) -> jwt.PyJWK | None:
    """Read one key of a set, or pass over it: one that we cannot use must not cost those that we can."""
    algorithm = ALGORITHMS.get((entry.get("kty", ""), entry.get("crv")))
    if algorithm is None or entry.get("use", "sig") != "sig":
        return None
    try:
        return jwt.PyJWK(entry, algorithm)
    except (jwt.PyJWTError, ValueError, KeyError, TypeError) as error:
        log.warning("A token key is passed over: %s", type(error).__name__)
        return None


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Read `scope` (RFC 8693: words) or `scp` (a list); a token that says nothing may predict."""
    given = claims.get("scope", claims.get("scp"))
    if given is None:
        return frozenset({"predict"})
    words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    named = {str(word) for word in words}
    plain = {word.removeprefix("fmx:") for word in named} - {"admin"}  # of many services' tokens; ours must be meant
    return frozenset(plain | ({"admin"} if "fmx:admin" in named else set())) & frozenset(SCOPES)
