"""What is measured beside fmx's service: each peer as it comes, and as its documentation says it is made fast.

How a peer is started is `running` in `processes.py`; `{python}`, `{bin}`, `{port}`, `{home}`, ... in its command and variables are filled there.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serve_peers.environments import ENVIRONMENTS

WORKERS = "2"
"""Of a tuned peer: one a core of the machine, each with one thread of ONNX Runtime."""
TUNED = {"FMX_PEER_THREADS": "1", "FMX_PEER_WORKERS": WORKERS}
HERE = "benchmarks.serve_peers"

JPEG, V2 = "image/jpeg", "application/json"


@dataclass(frozen=True)
class Peer:
    """A server and how it is asked."""

    environment: str
    """Of `ENVIRONMENTS`; empty for fmx's own."""
    command: tuple[str, ...]
    settings: str
    """In words, for a table."""
    variables: dict[str, str] = field(default_factory=dict)
    path: str = "/predict"
    content_type: str = JPEG
    ready: str = "/health"
    """A path that answers 200 once a worker has opened the model."""

    @property
    def requirements(self) -> tuple[str, ...]:
        """What its environment installs."""
        return ENVIRONMENTS.get(self.environment, ())

    def body(self, image: bytes) -> bytes:
        """Give the request body that asks about a JPEG."""
        if self.content_type == JPEG:
            return image
        tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": "base64"}}
        return json.dumps({"inputs": [{**tensor, "data": [base64.b64encode(image).decode()]}]}).encode()

    def labels(self, answer: bytes) -> list[dict[str, Any]]:
        """Read an answer: `{"label", "score"}`, best first."""
        content = json.loads(answer)
        if self.content_type == V2:
            labels, scores = (output["data"] for output in content["outputs"])
            return [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]
        found: list[dict[str, Any]] = (content[0] if isinstance(content, list) else content)["labels"]
        return found


UVICORN = ("{python}", "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}")
LITSERVE = ("{python}", "-m", f"{HERE}.litserve_server", "--port", "{port}")
TUNED_LITSERVE = (*LITSERVE, "--workers", WORKERS, "--api-servers", "1", "--fast-queue", "--log-level", "warning")
BENTOML = ("{python}", "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", "{port}")
BENTOML_HOME = {"BENTOML_HOME": "{home}", "BENTOML_DO_NOT_TRACK": "True"}
TUNED_BENTOML = {**BENTOML_HOME, **TUNED}
MLSERVER = ("{bin}/mlserver", "start", "{home}")
MLSERVER_SETTINGS = {
    "MLSERVER_HOST": "127.0.0.1",
    "MLSERVER_HTTP_PORT": "{port}",
    "MLSERVER_GRPC_PORT": "{second_port}",
    "MLSERVER_METRICS_PORT": "{third_port}",
    "MLSERVER_METRICS_DIR": "{home}/metrics",
    "MLSERVER_ENVIRONMENTS_DIR": "{home}/environments",
    "MLSERVER_MODEL_NAME": "classifier",
    "MLSERVER_MODEL_IMPLEMENTATION": f"{HERE}.mlserver_runtime.Classifier",
}
TUNED_MLSERVER = {**MLSERVER_SETTINGS, "FMX_PEER_THREADS": "1", "MLSERVER_DEBUG": "false"}
INFER = {"path": "/v2/models/classifier/infer", "content_type": V2, "ready": "/v2/models/classifier/ready"}

PEERS: dict[str, Peer] = {
    "null": Peer(
        "",
        (*UVICORN, "--http", "httptools", "--loop", "uvloop", "--lifespan", "off", "--no-access-log", f"{HERE}.null_server:app"),
        "bare ASGI on uvloop and httptools, a constant answer",
    ),
    "fastapi": Peer(
        "fastapi", (*UVICORN, "--factory", f"{HERE}.fastapi_server:build_app"), "one worker, thread pool; uvicorn finds uvloop and httptools"
    ),
    "fastapi-tuned": Peer(
        "fastapi",
        (
            *(*UVICORN, "--workers", WORKERS, "--http", "httptools", "--loop", "uvloop", "--no-access-log"),
            *("--factory", f"{HERE}.fastapi_server:build_tuned_app"),
        ),
        "2 workers of 1 thread, orjson, no response model, no access log",
        TUNED,
    ),
    "litserve": Peer("litserve", LITSERVE, "one worker"),
    "litserve-tuned": Peer("litserve", TUNED_LITSERVE, "2 workers of 1 thread, one API server, fast queue", TUNED),
    "litserve-batch": Peer(
        "litserve",
        (*TUNED_LITSERVE, "--batch", "8", "--batch-timeout", "0.002"),
        "as tuned, batches of up to 8 within 2 ms",
        TUNED,
    ),
    "bentoml": Peer("bentoml", (*BENTOML, f"{HERE}.bentoml_server:Classifier"), "one worker, a PIL image", BENTOML_HOME, ready="/readyz"),
    "bentoml-tuned": Peer(
        "bentoml-uvloop",
        (*BENTOML, f"{HERE}.bentoml_server:TunedClassifier"),
        "2 workers of 1 thread, bytes, uvloop and httptools, no access log",
        TUNED_BENTOML,
        ready="/readyz",
    ),
    "bentoml-batch": Peer(
        "bentoml", (*BENTOML, f"{HERE}.bentoml_batch_server:Classifier"), "one worker, adaptive batching", BENTOML_HOME, ready="/readyz"
    ),
    "bentoml-batch-tuned": Peer(
        "bentoml-uvloop",
        (*BENTOML, f"{HERE}.bentoml_batch_server:TunedClassifier"),
        "2 workers of 1 thread, adaptive batching, uvloop and httptools, no access log",
        TUNED_BENTOML,
        ready="/readyz",
    ),
    "mlserver": Peer("mlserver", MLSERVER, "V2 protocol, base64; one inference worker", MLSERVER_SETTINGS, **INFER),
    "mlserver-tuned": Peer(
        "mlserver-httptools",
        MLSERVER,
        "V2 protocol, base64; 2 inference workers of 1 thread, httptools, no debug log",
        {**TUNED_MLSERVER, "MLSERVER_PARALLEL_WORKERS": WORKERS},
        **INFER,
    ),
    "mlserver-in-process": Peer(
        "mlserver-httptools",
        MLSERVER,
        "V2 protocol, base64; no inference workers, 1 thread, httptools, no debug log",
        {**TUNED_MLSERVER, "MLSERVER_PARALLEL_WORKERS": "0"},
        **INFER,
    ),
}
"""In the order of a table."""
