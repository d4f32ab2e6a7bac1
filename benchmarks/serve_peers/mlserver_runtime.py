"""MLServer: a custom runtime of the V2 protocol. One BYTES tensor of JPEGs in base64 goes in, the tensors `labels` and `scores` come out."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serve_peers.model import open_model


class Classifier(MLModel):
    """POST /v2/models/classifier/infer."""

    async def load(self) -> bool:
        """Open the model, once a worker."""
        self._model = open_model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer the images of one request in one batch: 5 labels and scores an image, best first."""
        rows = np.stack([self._model.row(image) for image in Base64Codec.decode_input(payload.inputs[0])])
        found = [item for probabilities in self._model.run(rows) for item in self._model.prediction(probabilities)["labels"]]
        labels = StringCodec.encode_output("labels", [item["label"] for item in found])
        scores = NumpyCodec.encode_output("scores", np.array([item["score"] for item in found]))
        return InferenceResponse(model_name=self.name, outputs=[labels, scores])
