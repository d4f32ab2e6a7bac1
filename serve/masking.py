"""Takes personal data and secrets out of text before anybody can read it in a log.

Personal data are found by fmx/personal_data.py; the patterns of keys, tokens and passwords are here.
"""

from __future__ import annotations

import re

from fmx.personal_data import is_identity_card, passes_luhn, replace_personal_data

__all__ = ["encodable", "is_identity_card", "mask", "passes_luhn"]

LONGEST = 64_000
"""Characters; a longer line is cut, so that masking never takes long."""

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<![A-Za-z])fmx_([0-9a-f]{8})_[A-Za-z0-9_-]+"), r"fmx_\1_[secret]"),
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[token]"),
    (re.compile(r"(?i)\b((?:set-)?cookie[\"']?\s*[:=]\s*)[^\n]+"), r"\1[secret]"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)(?!\[)[A-Za-z0-9._~+/=-]{8,}"), r"\1\2[secret]"),
    (
        re.compile(
            r"(?i)((?:api[_-]?key|access[_-]?key|token|secret|passw(?:or)?d|pwd|authorization|密码|口令|密钥)[\"']?\s*[:=：]\s*+)"
            r"(?!\[secret\])(?!(?:bearer|basic)\b)(?:[bru]?\"[^\"\n]*\"|[bru]?'[^'\n]*'|[^\n\"',;&}]+)"
        ),
        r"\1[secret]",
    ),
    (re.compile(r"(://[^\s/:@]{1,200}:)[^\s/@]{1,200}@"), r"\1[secret]@"),
)


def encodable(text: str) -> str:
    """Give text that UTF-8 can hold: a lone surrogate, which a file's name or a token's subject may have, becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def mask(text: str) -> str:
    """Replace keys, tokens, passwords, e-mail addresses, phone, identity-card and payment-card numbers by what they were."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... [{len(text) - LONGEST} characters cut]"
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return replace_personal_data(text, "[{}]".format)
