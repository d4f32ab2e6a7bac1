"""BentoML with adaptive batching, the body still being one image.

BentoML batches calls that each bring a list. Its documentation puts a second service in front for callers who bring one input; here one
service does, for its input is validated into a list of one: no second process, and no second way through HTTP.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import bentoml
import numpy as np
from pydantic import BeforeValidator, WithJsonSchema

from benchmarks.serve_peers.model import open_model


def _listed(body: bytes | list[bytes]) -> list[bytes]:
    return [body] if isinstance(body, bytes) else body


Images = Annotated[list[bytes], BeforeValidator(_listed), WithJsonSchema({"type": "string", "format": "binary"})]
"""Of one call one image, of a batch all; with the schema of an array BentoML would read the body as JSON."""


class _Batches:
    def __init__(self) -> None:
        self._model = open_model()

    @bentoml.api(batchable=True)
    def predict(self, images: Images, /) -> list[dict[str, Any]]:
        """Answer a batch; each caller gets a list of one."""
        rows = np.stack([self._model.row(image) for image in images])
        return [self._model.prediction(probabilities) for probabilities in self._model.run(rows)]


@bentoml.service
class Classifier(_Batches):
    """POST /predict, with every default."""


@bentoml.service(workers=int(os.environ.get("FMX_PEER_WORKERS", "1")), logging={"access": {"enabled": False}})
class TunedClassifier(_Batches):
    """POST /predict, in several workers and without an access log."""
