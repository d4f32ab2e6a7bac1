"""When two texts are the same to a reader: whatever their case, width, spaces, invisible characters and final punctuation."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from fmx.pairs import joined, texts_of

_CONTROL = r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
_IGNORABLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    r"\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e0fff"
)
"""Unicode's Default_Ignorable_Code_Point (UAX 44), without the tags that tell England's flag from Scotland's"""
_INVISIBLE = re.compile(f"[{_CONTROL}{_IGNORABLE}]+")


def normalise(text: str) -> str:
    """Bring a text into the form in which copies are compared.

    That is Unicode's NFKC, case folded, with white space collapsed and without invisible characters and final punctuation; a text of
    nothing but punctuation keeps it.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())  # folding may undo the composition
    plain = " ".join(_INVISIBLE.sub("", folded).split())
    end = len(plain)
    while end and (plain[end - 1] == " " or unicodedata.category(plain[end - 1]).startswith("P")):
        end -= 1
    return plain[:end] or plain


def likeness_of(data: bytes) -> bytes:
    """Hash an input's normalised text, or those of a pair: 32 bytes, or none where nothing is left of them. Raises: `UnicodeDecodeError`."""
    plain = [normalise(text) for text in texts_of(data)]
    return hashlib.sha256(joined([text.encode() for text in plain])).digest() if any(plain) else b""
