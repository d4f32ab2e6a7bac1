"""What BentoML's clients are told of the service.

It leads them to our own route. With a `@bentoml.api` BentoML would read the bodies: it takes forms in which a file is an address and fetches that
(CVE-2025-54381), and its errors have neither code nor hint nor request id.
"""

from __future__ import annotations

from typing import Any

from fmx.tasks import Task
from serve.routes import PREDICT

WHAT_IS_DONE = {"labels": "Predict labels for {noun}s", "entities": "Find entities in {noun}s", "score": "Score {noun}s"}
"""By what a task answers with."""
_IMAGES = {"images": {"type": "array", "items": {"type": "file", "format": "image"}}}
_TEXTS = {"text": {"type": "string"}, "texts": {"type": "array", "items": {"type": "string"}}}
_PAIR = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
_FIELDS: dict[str, dict[str, Any]] = {"image": _IMAGES, "text": _TEXTS, "pair": {"pair": _PAIR, "pairs": {"type": "array", "items": _PAIR}}}
"""By what the model reads."""


def client_endpoint(task: type[Task]) -> dict[str, Any]:
    """Describe the prediction of a model of a task.

    BentoML's clients then take `client.predict(images=[Path("photo.jpg")], top_k=3)`, which they send as multipart files, and
    `client.predict(text="where is my order?")` or `client.predict(pair=["where is my order?", "It is on its way."])`, which they send as JSON.
    """
    noun = task.noun
    options = {"top_k": {"type": "integer"}} if task.answers_with == "labels" else {}
    return {
        "name": "predict",
        "route": PREDICT,
        "description": f"{WHAT_IS_DONE[task.answers_with].format(noun=noun)}.",
        "batchable": False,
        "is_task": False,
        "input": {"type": "object", "properties": {**_FIELDS[noun], **options}, "required": ["images"] if noun == "image" else []},
        "output": {
            "type": "object",
            "properties": {"request_id": {"type": "string"}, "model": {"type": "object"}, "predictions": {"type": "array"}},
        },
    }
