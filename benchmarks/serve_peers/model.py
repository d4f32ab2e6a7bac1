"""What every peer shares: one ONNX file of a package, opened on ONNX Runtime, and the image preprocessing that fmx does.

Nothing of fmx is imported, for a peer's environment has none: `image_row` says again what `fmx.images.image_row` says, for upright RGB
JPEGs. tests/benchmarks/ holds the rows equal, `check.py` the answers.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

BEST = 5
INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def image_row(image: bytes | Image.Image, spec: dict[str, Any]) -> np.ndarray:
    """Decode a JPEG at the smallest scale that will do, cut out its middle and resize.

    Args:
        image: its bytes, or opened and not decoded yet.
        spec: `input` of manifest.json.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image), formats=("JPEG",))
    size, resampling = (spec["width"], spec["height"]), INTERPOLATION[spec["interpolation"]]
    wide, high = (round(side / spec["crop_fraction"]) for side in size)
    image.draft(None, (max(wide, high), max(wide, high)))
    image = image.convert("RGB")
    if spec["resize"] == "squash":
        return np.asarray(image.resize(size, resampling))
    scale = max(wide / image.width, high / image.height)
    width, height = min(image.width, size[0] / scale), min(image.height, size[1] / scale)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return np.asarray(image.resize(size, resampling, box=(left, top, left + width, top + height), reducing_gap=3.0))


class Model:
    """A variant of a package: a JPEG in, its best labels out. Safe to call from several threads at once."""

    def __init__(self, folder: Path, variant: str | None = None, threads: int = 0, spinning: bool = True) -> None:
        """Open a package folder.

        Args:
            folder: it holds manifest.json.
            variant: `fp32`, `int8`, ...; the first of the manifest unless named.
            threads: inside one operator; 0 leaves the number to ONNX Runtime, as it does where nobody asks.
            spinning: whether idle threads spin, as they do where nobody asks.
        """
        manifest = json.loads((folder / "manifest.json").read_text())
        files = {item["name"]: item["file"] for item in manifest["variants"]}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        file = folder / (files[variant] if variant else next(iter(files.values())))
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._input: str = self._session.get_inputs()[0].name
        self._output: str = manifest["output"]["name"]
        self._spec: dict[str, Any] = manifest["input"]
        self._labels: list[str] = manifest["labels"]

    def row(self, image: bytes | Image.Image) -> np.ndarray:
        """Turn a JPEG, its bytes or opened, into one row: uint8 [height, width, 3]."""
        return image_row(image, self._spec)

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Run one batch: uint8 [n, height, width, 3] to float32 [n, labels]."""
        return np.asarray(self._session.run([self._output], {self._input: rows})[0])

    def prediction(self, probabilities: np.ndarray) -> dict[str, Any]:
        """Turn one row's probabilities, float [labels], into `{"labels": [{"label", "score"}]}`, best first."""
        order = np.argsort(-probabilities, kind="stable")[:BEST]
        return {"labels": [{"label": self._labels[i], "score": float(probabilities[i])} for i in order]}

    def predict(self, image: bytes | Image.Image) -> dict[str, Any]:
        """Answer one JPEG."""
        return self.prediction(self.run(self.row(image)[None])[0])


def open_model() -> Model:
    """Open what FMX_PEER_PACKAGE, FMX_PEER_VARIANT, FMX_PEER_THREADS and FMX_PEER_SPINNING say."""
    threads, spinning = int(os.environ.get("FMX_PEER_THREADS", "0")), os.environ.get("FMX_PEER_SPINNING") != "0"
    return Model(Path(os.environ["FMX_PEER_PACKAGE"]), os.environ.get("FMX_PEER_VARIANT"), threads, spinning)
