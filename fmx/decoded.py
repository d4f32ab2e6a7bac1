"""One input as a model takes it, with what can be told of it no more once it is a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Decoded(NamedTuple):
    """One row of a model."""

    values: np.ndarray
    """Of the task's `dtype` and `row_shape`"""
    facts: Mapping[str, float]
    """Of the input, by the feature of `fmx.drift`; empty where a row came as it is."""
    bucket: int = 0
    """Rows of one bucket take about as long; only they run together."""
    answered: np.ndarray | None = None
    """Of a row that is answered token by token, which of them count: int64 [m]; None where it is answered as a whole."""
