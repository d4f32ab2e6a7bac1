"""Grad-CAM of a run (Selvaraju et al. 2017, arXiv:1610.02391) through captum; models without a last feature map are explained by occlusion."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from finetune.blocks import layers_in_order
from finetune.network import restore_network
from fmx.explanation import occlusion
from fmx.run import Run
from fmx.statistics import softmax
from fmx.tasks import require_images


class RunExplainer:
    """A run's eager network, explained by Grad-CAM at its last feature map."""

    def __init__(self, run: Run) -> None:
        self.labels, self.spec = run.info.labels, require_images(run.info.input, "fmx explain")
        self._network = restore_network(run)
        self._layer = None if run.info.members else last_feature_map(self._network.body, self.spec.height)
        self.method = "Grad-CAM" if self._layer is not None else "occlusion"

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Answer rows."""
        with torch.inference_mode():
            return softmax(self._network(torch.tensor(rows)).numpy())

    def heat(self, row: np.ndarray, label: int) -> np.ndarray:
        """Weigh the last feature map by its gradient, and keep what speaks for the label."""
        if self._layer is None:
            return occlusion(self.probabilities, row, label)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="captum")
            from captum.attr import LayerGradCam

            images = self._network.prepare(torch.tensor(row[None])).requires_grad_(True)
            found: Tensor = LayerGradCam(self._network.body, self._layer).attribute(images, target=label, relu_attributions=True)
        return np.asarray(found.detach()[0, 0].numpy())


def last_feature_map(body: nn.Module, size: int) -> nn.Module | None:
    """Find the last layer with convolutions that gives a map [n, c, h, w] of more than one place, or None.

    Attention mixes places, so that a map before it says little: models with attention have none.
    """
    if any(isinstance(module, nn.MultiheadAttention) or "Attention" in type(module).__name__ for module in body.modules()):
        return None
    candidates = [layer[-1] if len(layer) > 1 else layer[0] for layer in layers_in_order(body)]
    maps: list[nn.Module] = []

    def watch(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1 and module in candidates:
            maps.append(module)

    hooks = [module.register_forward_hook(watch) for module in candidates]
    try:
        with torch.inference_mode():
            body(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return maps[-1] if maps else None
