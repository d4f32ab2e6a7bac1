"""Reference statistics: what inputs and outputs looked like at export, for drift to be told later. No row can be recovered from them."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 20


def reference_statistics(images: np.ndarray, probabilities: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """Describe test rows and answers.

    Args:
        images: uint8 [n, height, width, 3].
        probabilities: of the variant that is served, float [n, classes].
        labels: the classes.

    Returns:
        Histograms with fixed edges (20 bins) of brightness and contrast (0..255, a value a row) and of top-1 confidence (0..1), the mean
        of each colour channel, and the share of each predicted class.
    """
    grey = images.astype(np.float32).mean(axis=3)
    confidence = probabilities.max(axis=1)
    share = np.bincount(probabilities.argmax(axis=1), minlength=len(labels)) / len(images)
    return {
        "rows": len(images),
        "brightness": _histogram(grey.mean(axis=(1, 2)), 255.0),
        "contrast": _histogram(grey.std(axis=(1, 2)), 128.0),
        "colour_mean": [round(float(value), 3) for value in images.mean(axis=(0, 1, 2))],
        "confidence": _histogram(confidence, 1.0),
        "class_share": {label: round(float(value), 6) for label, value in zip(labels, share, strict=True)},
    }


def _histogram(values: np.ndarray, top: float) -> dict[str, Any]:
    counts, edges = np.histogram(values, bins=BINS, range=(0.0, top))
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}
