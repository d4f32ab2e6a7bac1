from __future__ import annotations

import pytest
import torch

from export import rewrite
from export.exporter import export_body
from finetune.network import build_network
from tests.export.bodies import Exported


def export_small(model: str, weights: str, size: int = 32) -> Exported:
    torch.manual_seed(0)  # the fresh head's weights
    network, _, spec = build_network(model, weights, size, 5)
    network.eval()
    body = export_body(network, spec, 20)
    rewrite.pool_reduced_maps(body)
    return network, spec, body


@pytest.fixture(scope="session")
def lite0() -> Exported:
    """EfficientNet-Lite0 with its real weights: one mean and one std."""
    return export_small("efficientnet_lite0", "default")


@pytest.fixture(scope="session")
def resnet() -> Exported:
    """A random ResNet-18: a mean and a std a channel, and a first convolution that pads."""
    return export_small("resnet18", "none")


@pytest.fixture(scope="session")
def mobilenet() -> Exported:
    """A random MobileNetV3-small: hard-swish and squeeze-and-excite."""
    return export_small("mobilenet_v3_small", "none")
