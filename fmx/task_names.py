"""The tasks by name, and nothing else: for the command line and settings, which load no task."""

from __future__ import annotations

from typing import Final, Literal

IMAGES: Final = "image-classification"
TEXTS: Final = "text-classification"

TaskName = Literal["image-classification", "text-classification"]
