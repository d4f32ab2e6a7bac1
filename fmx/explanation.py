"""Which parts of an image speak for a class: the overlay, and occlusion for whatever gives probabilities. Grad-CAM is finetune/explanation.py."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fmx import storage
from fmx.contract import ImageInput
from fmx.errors import UsageError, nearest_names
from fmx.images import image_row
from fmx.predictor import PackagePredictor
from fmx.progress import progress
from fmx.tasks import require_images

PATCHES = 12
"""Occlusion slides a patch over a grid of so many places a side; a patch is two places wide."""


class Explainer(Protocol):
    """Something that answers rows and can say why."""

    labels: tuple[str, ...]
    spec: ImageInput
    method: str

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Answer rows uint8 [n, h, w, 3] with float [n, labels]."""
        ...

    def heat(self, row: np.ndarray, label: int) -> np.ndarray:
        """Give how much each place of a row uint8 [h, w, 3] speaks for a label: float [rows, columns] of any size, at least 0."""
        ...


class PackageExplainer:
    """A package, explained by occlusion."""

    method = "occlusion"

    def __init__(self, folder: Path) -> None:
        self._predictor = PackagePredictor.open(folder)
        self.labels = self._predictor.contract.labels
        self.spec = require_images(self._predictor.contract.input, "fmx explain")

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Answer rows on the variant that this host would serve."""
        return self._predictor.run_all(rows)

    def heat(self, row: np.ndarray, label: int) -> np.ndarray:
        """Hide one part of the row after the other."""
        return occlusion(self.probabilities, row, label)


def occlusion(answer: Callable[[np.ndarray], np.ndarray], row: np.ndarray, label: int) -> np.ndarray:
    """Give how far a label's probability falls when a patch is greyed out (Zeiler & Fergus 2014, arXiv:1311.2901): float [PATCHES, PATCHES].

    Args:
        answer: from rows uint8 [n, h, w, 3] to probabilities [n, labels].
        row: uint8 [h, w, 3].
        label: its position.
    """
    height, width = row.shape[:2]
    tops, lefts = (np.linspace(0, side, PATCHES + 1).astype(int) for side in (height, width))
    hidden = np.repeat(row[None], PATCHES * PATCHES, axis=0)
    grey = row.mean(axis=(0, 1)).astype(np.uint8)
    for place in range(PATCHES * PATCHES):
        down, across = divmod(place, PATCHES)
        top, bottom = tops[down] - height // (2 * PATCHES), tops[down + 1] + height // (2 * PATCHES)
        left, right = lefts[across] - width // (2 * PATCHES), lefts[across + 1] + width // (2 * PATCHES)
        hidden[place, max(0, top) : bottom, max(0, left) : right] = grey
    fall = answer(row[None])[0, label] - answer(hidden)[:, label]
    return np.asarray(np.maximum(fall, 0.0).reshape(PATCHES, PATCHES))


def write_overlays(explainer: Explainer, inputs: Sequence[tuple[str, bytes]], label: str | None, out: Path) -> list[dict[str, Any]]:
    """Write an overlay of every input into a folder.

    Returns:
        One entry an input: input, label, score, method, file.

    Raises:
        UsageError: no such label.
        InputError: an input that is no image.
    """
    if label is not None and label not in explainer.labels:
        near = nearest_names(label, list(explainer.labels))
        raise UsageError(
            f"The model knows no label {label!r}.", hint=f"Did you mean {near}?" if near else f"It knows: {', '.join(explainer.labels[:10])}"
        )
    written = []
    with progress("explaining", len(inputs)) as advance:
        for number, (name, data) in enumerate(inputs, start=1):
            row = image_row(data, explainer.spec)
            scores = explainer.probabilities(row[None])[0]
            chosen = explainer.labels.index(label) if label is not None else int(scores.argmax())
            path = out / f"{number:03d}-{Path(name).stem if name != '-' else 'input'}.png"
            storage.write_bytes(path, overlay(row, explainer.heat(row, chosen)))
            written.append(
                {"input": name, "label": explainer.labels[chosen], "score": float(scores[chosen]), "method": explainer.method, "file": str(path)}
            )
            advance(1)
    return written


def overlay(row: np.ndarray, heat: np.ndarray, side: int = 448) -> bytes:
    """Draw heat over a row as a PNG, red where it is greatest.

    Args:
        row: uint8 [h, w, 3].
        heat: float [rows, columns], at least 0.
        side: of the longer side of the picture.
    """
    scale = side / max(row.shape[:2])
    size = (max(1, round(row.shape[1] * scale)), max(1, round(row.shape[0] * scale)))
    share = heat / heat.max() if heat.max() > 0 else heat
    mask = np.asarray(Image.fromarray((255 * share).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None] / 255
    image = np.asarray(Image.fromarray(row).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    colour = np.concatenate([255 * mask, 96 * (1 - np.abs(2 * mask - 1)), 255 * (1 - mask)], axis=2)
    mixed = image * (1 - 0.55 * mask) + colour * 0.55 * mask
    buffer = io.BytesIO()
    Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
