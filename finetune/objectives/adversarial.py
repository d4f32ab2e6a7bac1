"""Adversarial rows within a distance of the real ones, to train on and to measure robust accuracy with.

FGSM with a random start: Wong et al. 2020, arXiv:2001.03994. PGD: Madry et al. 2018, arXiv:1706.06083.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.modes import evaluating
from finetune.network import Network
from finetune.settings import TrainSettings
from fmx.contract import ImageInput
from fmx.data.rows import Rows
from fmx.progress import progress

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
MEASURED_STEPS = 10
"""PGD steps that robust accuracy is measured with."""


def build_attack(settings: TrainSettings, spec: ImageInput, device: torch.device) -> Attack | None:
    """Return what turns (module, images, targets) into adversarial images, or None."""
    if settings.adversarial == "none":
        return None
    steps = 1 if settings.adversarial == "fgsm" else settings.adversarial_steps
    return attack(settings.adversarial_eps, steps, spec, device)


def attack(eps: float, steps: int, spec: ImageInput, device: torch.device) -> Attack:
    """Build projected gradient descent in the L-infinity ball of `eps` levels (of 255) around each image, from a random start.

    A step is 1.25 eps for one step (FGSM) and 2.5 eps / steps for more; pixels stay within 0..255. The module is attacked in eval mode,
    so that no statistic of a norm moves.
    """
    mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
    lowest, highest, radius = (0 - mean) / std, (255 - mean) / std, eps / std
    stride = radius * (1.25 if steps == 1 else 2.5 / steps)

    def perturb(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        with evaluating(module):
            near = images.float() + (torch.rand_like(images) * 2 - 1) * radius
            for _ in range(steps):
                near = near.detach().requires_grad_(True)
                with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):  # an fp16 slope may underflow to no attack
                    loss = functional.cross_entropy(module(near), targets)
                (slope,) = torch.autograd.grad(loss, near)
                near = near + stride * slope.sign()
                near = torch.minimum(torch.maximum(near, images - radius), images + radius)
                near = torch.minimum(torch.maximum(near, lowest), highest)
        return near.detach()

    return perturb


def robust_answers(network: Network, rows: Rows, eps: float, spec: ImageInput, device: torch.device, seed: int, batch_size: int = 64) -> np.ndarray:
    """Give the labels that the network answers on attacked rows: int64 [n]."""
    perturb = attack(eps, MEASURED_STEPS, spec, device)
    network.eval()
    answers = []
    with torch.random.fork_rng(), progress("attacking", len(rows)) as advance:
        torch.manual_seed(seed)
        for start in range(0, len(rows), batch_size):
            images = network.prepare(torch.from_numpy(rows.values[start : start + batch_size]).to(device))
            targets = torch.from_numpy(rows.labels[start : start + batch_size]).to(device)
            near = perturb(network.body, images, targets)
            with torch.inference_mode():
                answers.append(network.body(near).argmax(dim=1).cpu().numpy())
            advance(len(images))
    return np.concatenate(answers)
