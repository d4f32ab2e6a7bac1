"""LitServe: `python -m benchmarks.serve_peers.litserve_server --port PORT`, with its own settings as options.

LitServe reads its routes' types from the signatures at run time, so annotations must not be strings here.
"""

import argparse
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body

from benchmarks.serve_peers.model import open_model


class Classifier(litserve.LitAPI):
    """Decodes and runs in an inference worker; with a batch size above 1 LitServe stacks the rows and takes the answers apart."""

    def setup(self, device: str) -> None:
        """Open the model, once a worker."""
        self.model = open_model()

    def decode_request(self, request: Annotated[bytes, Body()]) -> np.ndarray:
        """Turn the body into one row."""
        return self.model.row(request)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Run one row, or the rows of a batch."""
        return self.model.run(rows) if rows.ndim == 4 else self.model.run(rows[None])[0]

    def encode_response(self, probabilities: np.ndarray) -> dict[str, Any]:
        """Turn one row's probabilities into the answer."""
        return self.model.prediction(probabilities)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--batch-timeout", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--api-servers", type=int, default=None, help="as many as workers unless said")
    parser.add_argument("--fast-queue", action="store_true")
    parser.add_argument("--log-level", default="info")
    given = parser.parse_args()
    api = Classifier(max_batch_size=given.batch, batch_timeout=given.batch_timeout)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given.workers, fast_queue=given.fast_queue)
    server.run(host="127.0.0.1", port=given.port, num_api_servers=given.api_servers, log_level=given.log_level, generate_client_file=False)


if __name__ == "__main__":
    main()
