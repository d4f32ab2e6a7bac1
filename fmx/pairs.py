"""A pair of texts as one lot of bytes, like every other input: both in UTF-8, with a byte in between that no UTF-8 holds. Standard library alone."""

from __future__ import annotations

from collections.abc import Sequence

BETWEEN = b"\xff"
"""Between the two texts of a pair."""


def joined(texts: Sequence[bytes]) -> bytes:
    """Make one input of the texts that belong together, each in UTF-8."""
    return BETWEEN.join(texts)


def texts_of(data: bytes) -> list[str]:
    """Take the texts of an input apart. Raises: `UnicodeDecodeError`."""
    return [text.decode() for text in data.split(BETWEEN)]


def shown(data: bytes) -> str:
    """Give an input's texts to read, a line each. Raises: `UnicodeDecodeError`."""
    return "\n".join(texts_of(data))
