"""Reference statistics: what inputs and outputs looked like at export, for drift to be told later. No row can be recovered from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmx.drift import CLASS_SHARE, FEATURES, TOPS, counts_of, edges

CHUNK = 256


def reference_statistics(images: np.ndarray, probabilities: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """Describe test rows and answers.

    Args:
        images: uint8 [n, height, width, 3].
        probabilities: of the variant that is served, float [n, classes].
        labels: the classes.

    Returns:
        Histograms with fixed edges of the features of `fmx.drift`, a value a row, and the share of each predicted class.
    """
    chunks = [counts_of(images[start : start + CHUNK], probabilities[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
    counts = {name: np.sum([chunk[name] for chunk in chunks], axis=0) for name in FEATURES}
    share = counts[CLASS_SHARE] / len(images)
    return {
        "rows": len(images),
        **{name: {"edges": edges(top), "counts": counts[name].tolist()} for name, top in TOPS.items()},
        CLASS_SHARE: {label: round(float(value), 6) for label, value in zip(labels, share, strict=True)},
    }
