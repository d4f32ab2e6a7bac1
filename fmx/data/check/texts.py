"""Facts of one text: what it holds, and what is odd about it. The text itself is not kept, and nothing of it is ever shown."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from fmx.data.check.scripts import script_shares
from fmx.data.likeness import likeness_of
from fmx.data.source import Item
from fmx.pairs import texts_of
from fmx.personal_data import count_personal_data
from fmx.texts import MAX_CHARACTERS

PERSONAL_KINDS = {"email": "email", "phone": "phone", "identity card": "identity-card", "card": "payment-card"}
"""Kind of finding, by the kind of personal data"""
_INVISIBLE_CATEGORIES = ("Cc", "Cf", "Zs", "Zl", "Zp")
_INVISIBLE_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"
"""Fillers of Hangul and the empty Braille pattern, which count as letters or symbols and show nothing"""


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What one text is; where it cannot be used, length and scripts are empty."""

    digest: bytes
    """SHA-256 of its bytes; empty where they could not be read"""
    marks: tuple[tuple[str, str], ...]
    """(kind of finding, what is particular, if anything)"""
    usable: bool = False
    normalised: bytes = b""
    """SHA-256 of the normalised text"""
    length: int = 0
    """In the unit of whoever counted"""
    scripts: dict[str, float] = field(default_factory=dict)
    """Shares of its letters, which sum to 1"""
    language: str = ""
    """Empty where languages are not told"""


def read_text_facts(
    item: Item, measure: Callable[[list[str]], int], tell_language: Callable[[str, dict[str, float]], str] | None = None
) -> TextFacts:
    """Read a text, or a pair of them, and say what it is.

    Args:
        item: whose text.
        measure: gives the length of its texts together, in tokens or characters.
        tell_language: of a text and its shares of scripts.
    """
    try:
        data = item.read()
    except OSError as error:
        return TextFacts(b"", (("unreadable", error.strerror or type(error).__name__),))
    digest = hashlib.sha256(data).digest()
    try:
        texts = texts_of(data)
    except UnicodeDecodeError as error:
        return TextFacts(digest, (("unreadable", f"no UTF-8 at byte {error.start}"),))
    characters = sum(map(len, texts))
    if characters > MAX_CHARACTERS:
        return TextFacts(digest, (("unreadable", f"{characters:,} characters, more than {MAX_CHARACTERS:,}"),))
    if not all(map(shows_something, texts)):
        return TextFacts(digest, (("invisible", f"{characters:,} characters"),))
    both = "\n".join(texts)
    marks = tuple((PERSONAL_KINDS[kind], "") for kind in count_personal_data(both))
    scripts = script_shares(both)
    language = tell_language(both, scripts) if tell_language is not None else ""
    return TextFacts(digest, marks, True, likeness_of(data), measure(texts), scripts, language)


def shows_something(text: str) -> bool:
    """Say whether a text has a character that can be seen: neither white space nor a control, format or filling character."""
    return any(not _is_invisible(character) for character in text)


def _is_invisible(character: str) -> bool:
    if character in _INVISIBLE_LETTERS or unicodedata.category(character) in _INVISIBLE_CATEGORIES:
        return True
    return "\ufe00" <= character <= "\ufe0f"  # variation selectors
