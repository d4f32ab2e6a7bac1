"""The tasks by name, and nothing else: for the command line and settings, which load no task."""

from __future__ import annotations

from typing import Final, Literal

IMAGES: Final = "image-classification"
TEXTS: Final = "text-classification"
PAIRS: Final = "text-pair"
READ_TEXTS = (TEXTS, PAIRS)
"""What reads tables of texts, with an encoder and its tokenizer."""

TaskName = Literal["image-classification", "text-classification", "text-pair"]
