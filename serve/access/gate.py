"""The gate: who calls, whether they may, and whether they have called too often. It reads headers alone."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from serve import metrics
from serve.access.caller import Caller
from serve.access.keyring import KeyRing
from serve.access.keys import SCOPES, Key, read_rate
from serve.access.limits import Limiter, Standing, quota_a_day
from serve.errors import ForbiddenError, UnauthorisedError
from serve.settings import ServeSettings, key_path

if TYPE_CHECKING:
    from serve.access.tokens import TokenVerifier

ANYBODY = Caller(id="anybody", name="", scopes=frozenset(SCOPES) - {"admin"})
"""With `FMX_AUTH=off`, where whoever stands in front of the service checks callers: nobody is an administrator."""


Headers = Callable[[bytes], str]
"""A request's header by its lower-case name, or an empty string."""


class Gate:
    """Lets callers in."""

    def __init__(self, settings: ServeSettings) -> None:
        self._keys = KeyRing(key_path(settings)) if settings.auth == "on" else None
        self._tokens = token_verifier(settings) if settings.auth == "on" else None
        self._limiter = Limiter(settings.redis_url, settings.workers)
        self._metrics_token = settings.metrics_token

    async def close(self) -> None:
        """Close what was opened."""
        await self._limiter.close()

    async def admit(self, headers: Headers, scope: str) -> tuple[Caller, list[Standing]]:
        """Let a caller in for a scope.

        Returns:
            The caller, and where they stand with their limits.

        Raises:
            UnauthorisedError: no credential, or one that is not good.
            ForbiddenError: the credential is not for this scope.
            OverQuotaError: too many requests.
        """
        if self._keys is None:
            if scope not in ANYBODY.scopes:
                raise ForbiddenError(f"Nobody may {scope} with FMX_AUTH=off.", hint="Without keys, move packages/latest: the service follows it.")
            return ANYBODY, []
        caller = await self._identify(_credential(headers))
        if scope not in caller.scopes:
            raise ForbiddenError(f"This key is not for {scope}.", hint=f"Make one with: fmx keys create NAME --scope {scope}")
        standings = await self._limiter.take(caller)
        metrics.key_requests.labels(caller.id).inc()
        return caller, standings

    async def admit_to_metrics(self, headers: Headers) -> None:
        """Let a scraper in: anybody, unless FMX_METRICS_TOKEN is set; then that token, or a key for metrics. Raises: `UnauthorisedError`."""
        await self._check_metrics_token(headers)
        if self._keys is not None:
            self._keys.refresh()  # what is scraped says when keys end
        await self._limiter.look()

    async def _check_metrics_token(self, headers: Headers) -> None:
        if self._metrics_token is None:
            return
        text = _credential(headers)
        if hmac.compare_digest(text.encode(), self._metrics_token.get_secret_value().encode()):
            return
        if self._keys is None or "metrics" not in (await self._identify(text)).scopes:
            raise UnauthorisedError("Metrics need their token.", hint="Send the header 'Authorization: Bearer TOKEN' with FMX_METRICS_TOKEN.")

    async def _identify(self, text: str) -> Caller:
        if not text:
            raise UnauthorisedError("A key is needed.", hint="Send the header 'Authorization: Bearer KEY'. fmx keys create NAME makes one.")
        if self._tokens is not None and self._tokens.looks_like_token(text):
            return await asyncio.to_thread(self._tokens.verify, text)
        key = self._keys.identify(text) if self._keys is not None else None
        if key is None:
            raise UnauthorisedError("This key is not known, revoked or past its end.", hint="fmx keys list shows the live ones.")
        return caller_of(key)


@lru_cache(maxsize=1024)  # asked for every request
def caller_of(key: Key) -> Caller:
    """Give the caller that a key stands for."""
    return Caller(key.id, key.name, frozenset(key.scopes), read_rate(key.rate), quota_a_day(key.quota))


def token_verifier(settings: ServeSettings) -> TokenVerifier | None:
    """Open the keys of signed tokens where they are configured. Raises: `SurroundingsError`."""
    if settings.jwt_jwks is None:
        return None
    from serve.access.tokens import TokenVerifier  # its libraries take 9 MB in every process

    return TokenVerifier(settings.jwt_jwks, issuer=settings.jwt_issuer, audience=settings.jwt_audience, leeway_s=settings.jwt_leeway_seconds)


def _credential(headers: Headers) -> str:
    authorisation = headers(b"authorization")
    return authorisation[7:].strip() if authorisation[:7].lower() == "bearer " else headers(b"x-api-key")
