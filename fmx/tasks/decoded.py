"""One input as a model takes it, with what can be told of it no more once it is a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Decoded(NamedTuple):
    """One row of a model."""

    values: np.ndarray
    """uint8, of the task's row shape"""
    facts: Mapping[str, float]
    """Of the input, by the feature of `fmx.drift`; empty where a row came as it is."""
