"""What rows and answers look like in numbers, and how far two lots of them are apart: the reference at export and the service use the same.

Distances are the population stability index and the Kolmogorov-Smirnov distance of histograms with fixed edges. Whether a distance is more
than chance is told by the index's distribution without drift, nearly chi-squared over n m / (n + m) (Yurdakul 2018, "Statistical properties of
population stability index"), so that few rows raise no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

BINS = 20
TOPS = {
    "brightness": 255.0,
    "contrast": 128.0,
    "sharpness": 32.0,
    "red": 255.0,
    "green": 255.0,
    "blue": 255.0,
    "size": 16.0,
    "tokens": 13.0,
    "unknown_share": 1.0,
    "latin_share": 1.0,
    "han_share": 1.0,
    "embedding_distance": 1.0,
    "confidence": 1.0,
    "entropy": 1.0,
}
"""The features that are histograms, from 0 to so much; what is above counts as so much. The size of an image is the binary logarithm of the side of
a square of as many pixels, before it was made a row; that of a text the one of its tokens, of which some are unknown; Latin and Han are
shares of its letters; its embedding's distance is 1 less the cosine to the centre of the reference's."""
CLASS_SHARE = "class_share"
EMBEDDING_CENTRE = "embedding_centre"
"""Of a reference whose package gives embeddings: float [width], of length 1"""
FEATURES = (*TOPS, CLASS_SHARE)
LEAST_SHARE = 0.05
"""Of the reference in a bin; rarer ones are taken together with their neighbour."""
NOTABLE_PSI = 0.2
"""From here on a shift is commonly called large."""
_Z = 3.09
"""One in a thousand."""


Features = Mapping[str, np.ndarray]
"""A value a row, by feature."""


def image_features(images: np.ndarray) -> dict[str, np.ndarray]:
    """Measure images.

    Args:
        images: uint8 [n, height, width, 3].

    Returns:
        A value a row: mean and deviation of grey (0..255), mean absolute difference of neighbouring pixels, mean of each channel.
    """
    colours = images.mean(axis=(1, 2), dtype=np.float32)
    grey = images.mean(axis=3, dtype=np.float32)
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "sharpness": steps / 2,
        "red": colours[:, 0],
        "green": colours[:, 1],
        "blue": colours[:, 2],
    }


def centre_of(embeddings: np.ndarray) -> np.ndarray:
    """Give the direction of the mean of embeddings, float [n, width]: float32 [width], of length 1."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    return np.asarray(mean / max(1e-12, float(np.linalg.norm(mean))), np.float32)


def distances_from(centre: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Give 1 less the cosine of embeddings, float [n, width] of length 1, to a centre: float [n], from 0 to 2."""
    return np.asarray(1.0 - embeddings @ centre)


def answer_features(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Measure answers, float [n, classes]: the first label's probability, and the entropy over its largest value (0..1), a value a row."""
    sure = np.clip(probabilities.astype(np.float64), 1e-12, 1.0)
    entropy = -(sure * np.log(sure)).sum(axis=1) / max(math.log(probabilities.shape[1]), 1e-12)
    return {"confidence": probabilities.max(axis=1), "entropy": entropy}


def counts_of(features: Features, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Count rows and answers into the bins of every feature, the first labels' classes among them: int64 [bins].

    Args:
        features: of the inputs, float [n] each.
        probabilities: float [n, classes].
    """
    counts = {name: count(values, TOPS[name]) for name, values in {**features, **answer_features(probabilities)}.items()}
    return {**counts, CLASS_SHARE: np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])}


def count(values: np.ndarray, top: float) -> np.ndarray:
    """Count values into the bins from 0 to `top`: int64 [BINS]."""
    return np.histogram(np.clip(values, 0.0, top), bins=BINS, range=(0.0, top))[0]


def edges(top: float) -> list[float]:
    """Give the edges of the bins."""
    return [round(float(edge), 6) for edge in np.linspace(0.0, top, BINS + 1)]


def reference_counts(reference: dict[str, Any], labels: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the counts of a package's reference.json, of the features that it has (earlier versions wrote fewer)."""
    found = {}
    for name, top in TOPS.items():
        histogram = reference.get(name)
        if isinstance(histogram, dict) and len(histogram.get("counts", ())) == BINS and math.isclose(histogram["edges"][-1], top):
            found[name] = np.asarray(histogram["counts"], dtype=np.int64)
    share = reference.get(CLASS_SHARE)
    if isinstance(share, dict) and set(share) == set(labels):
        found[CLASS_SHARE] = np.rint(np.array([share[label] for label in labels]) * reference["rows"]).astype(np.int64)
    return found


def merge_rare(reference: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take neighbouring bins together until each holds `LEAST_SHARE` of the reference; where nearly all lies in one, that one and the rest."""
    least = LEAST_SHARE * max(1, int(reference.sum()))
    merged: list[list[int]] = [[0, 0]]
    for expected, got in zip(reference.tolist(), counts.tolist(), strict=True):
        if merged[-1][0] >= least:
            merged.append([0, 0])
        merged[-1][0] += expected
        merged[-1][1] += got
    if len(merged) > 1 and merged[-1][0] < least:
        last = merged.pop()
        merged[-1] = [merged[-1][0] + last[0], merged[-1][1] + last[1]]
    if len(merged) < 2:
        most = int(reference.argmax())
        merged = [[int(reference[most]), int(counts[most])], [int(reference.sum() - reference[most]), int(counts.sum() - counts[most])]]
    pairs = np.array(merged, dtype=np.float64)
    return pairs[:, 0], pairs[:, 1]


def stability_index(reference: np.ndarray, counts: np.ndarray) -> tuple[float, bool]:
    """Give the population stability index of counts against a reference, and whether it is large and more than chance.

    Args:
        reference: int [bins].
        counts: int [bins].
    """
    expected, got = merge_rare(reference, counts)
    m, n = expected.sum(), got.sum()
    if not m or not n or len(expected) < 2:
        return 0.0, False
    p, q = (expected + 0.5) / (m + 0.5 * len(expected)), (got + 0.5) / (n + 0.5 * len(got))
    index = float(((q - p) * np.log(q / p)).sum())
    freedom = len(expected) - 1
    chance = freedom * (1 - 2 / (9 * freedom) + _Z * math.sqrt(2 / (9 * freedom))) ** 3  # Wilson and Hilferty 1931
    return index, index > NOTABLE_PSI and index * n * m / (n + m) > chance


def kolmogorov_smirnov(reference: np.ndarray, counts: np.ndarray) -> float:
    """Give the largest difference of the two cumulative shares at the bins' edges: at most the distance of the values themselves."""
    if not reference.sum() or not counts.sum():
        return 0.0
    return float(np.abs(np.cumsum(reference) / reference.sum() - np.cumsum(counts) / counts.sum()).max())
