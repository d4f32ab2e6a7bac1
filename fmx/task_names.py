"""The tasks by name, and nothing else: for the command line and settings, which load no task."""

from __future__ import annotations

from typing import Final, Literal

IMAGES: Final = "image-classification"
TEXTS: Final = "text-classification"
LABELS: Final = "text-labels"
"""Several labels a text: what `--task text-classification --multi-label` means."""
TOKENS: Final = "token-classification"
PAIRS: Final = "text-pair"
READ_TEXTS = (TEXTS, LABELS, TOKENS, PAIRS)
"""What reads tables of texts, with an encoder and its tokenizer."""

TaskName = Literal["image-classification", "text-classification", "text-labels", "token-classification", "text-pair"]
