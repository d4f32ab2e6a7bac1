"""A caller who was identified, whatever by."""

from __future__ import annotations

from dataclasses import dataclass

from limits import RateLimitItem


@dataclass(frozen=True)
class Caller:
    """Who calls, and what they may do."""

    id: str
    """A key's id, or `token` for everyone who came with a signed token: the only name that metrics know them by."""
    name: str
    """For the audit log: a key's name, or a token's subject."""
    scopes: frozenset[str]
    rate: RateLimitItem | None = None
    quota: RateLimitItem | None = None
