"""What BentoML's clients are told of the service."""

from __future__ import annotations

from serve.routes import PREDICT

CLIENT_ENDPOINT = {
    "name": "predict",
    "route": PREDICT,
    "description": "Predict labels for images.",
    "batchable": False,
    "is_task": False,
    "input": {
        "type": "object",
        "properties": {"images": {"type": "array", "items": {"type": "file", "format": "image"}}, "top_k": {"type": "integer"}},
        "required": ["images"],
    },
    "output": {"type": "object", "properties": {"request_id": {"type": "string"}, "model": {"type": "object"}, "predictions": {"type": "array"}}},
}
"""What BentoML's clients are told: `client.predict(images=[Path("photo.jpg")], top_k=3)`, which they send as multipart files.

It leads them to our own route. With a `@bentoml.api` BentoML would read the bodies: it takes forms in which a file is an address and fetches that
(CVE-2025-54381), and its errors have neither code nor hint nor request id.
"""
