"""BentoML, one image a call, as root input: the body is the image itself."""

from __future__ import annotations

import os
from typing import Any

import bentoml
from PIL.Image import Image

from benchmarks.serve_peers.model import open_model


@bentoml.service
class Classifier:
    """POST /predict, with the image type of BentoML's documentation and every default."""

    def __init__(self) -> None:
        self._model = open_model()

    @bentoml.api
    def predict(self, image: Image, /) -> dict[str, Any]:
        """Answer one image; BentoML opens it, this decodes it."""
        return self._model.predict(image)


@bentoml.service(workers=int(os.environ.get("FMX_PEER_WORKERS", "1")), logging={"access": {"enabled": False}})
class TunedClassifier:
    """POST /predict, in several workers and without an access log."""

    def __init__(self) -> None:
        self._model = open_model()

    @bentoml.api
    def predict(self, image: bytes, /) -> dict[str, Any]:
        """Answer one image; bytes, for in a body that is an image BentoML first looks for a URL, byte by byte."""
        return self._model.predict(image)
