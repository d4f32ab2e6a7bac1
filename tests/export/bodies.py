"""Bodies that the tests of this folder export once, and rows for them."""

from __future__ import annotations

import numpy as np
import onnx

from export.calibration import Feed
from export.quantize import Scheme
from export.start import Start, normalised
from finetune.network import Network
from fmx.contract import ImageInput, ModelContract
from fmx.host import has_vnni

Exported = tuple[Network, ImageInput, onnx.ModelProto]

HERE = Scheme(reduce_range=not has_vnni())
"""What this CPU multiplies without saturating."""


def contract_for(spec: ImageInput, classes: int = 5) -> ModelContract:
    return ModelContract(task="image-classification", labels=tuple(f"c{i}" for i in range(classes)), input=spec)


def random_rows(n: int, spec: ImageInput) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(spec.height // 4 + 1, axis=1).repeat(spec.width // 4 + 1, axis=2)[:, : spec.height, : spec.width]


def feed_for(start: Start | None, spec: ImageInput) -> Feed:
    return start.feed if start is not None else lambda images: normalised(images, spec)
