"""Rows for a report: images as thumbnails, texts by their beginning."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from fmx.data.rows import Rows
from fmx.pairs import shown

MISTAKES = 12
SHOWN_CHARACTERS = 200


def galleries(labels: tuple[str, ...], probabilities: np.ndarray, test: Rows) -> dict[str, list[dict[str, Any]]]:
    """Give the wrong answers that were `confident`, and those that are `worst`; none where more is answered of a row than one label.

    Args:
        labels: of the model.
        probabilities: float [n, labels], of tokens [n, max_length, labels].
        test: the rows that were answered.
    """
    if test.has_units:
        return {"confident": [], "worst": []}
    chances = probabilities[np.arange(len(test)), test.labels]
    return {
        "confident": mistakes(labels, probabilities, test, probabilities.max(axis=1)),
        "worst": mistakes(labels, probabilities, test, -chances),
    }


def mistakes(labels: tuple[str, ...], probabilities: np.ndarray, test: Rows, order: np.ndarray) -> list[dict[str, Any]]:
    """Give wrongly answered test rows, those with the highest `order`, float [n], first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    wrong = wrong[np.argsort(-order[wrong], kind="stable")][:MISTAKES]
    return [
        {
            **_shown(test, int(i)),
            "name": test.names[i],
            "said": labels[predicted[i]],
            "score": float(probabilities[i].max()),
            "true": labels[test.labels[i]],
            "true_score": float(probabilities[i, test.labels[i]]),
        }
        for i in wrong
    ]


def _shown(test: Rows, index: int) -> dict[str, str]:
    if test.values.ndim == 4:
        return {"image": _data_url(test.values[index])}
    text = shown(test.items[index].read())
    return {"text": text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ..."}


def _data_url(row: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
