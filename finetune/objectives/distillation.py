"""Learning from a teacher run's probabilities (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from finetune.network import Network, restore_network
from fmx.errors import ModelError
from fmx.run import find_run, load_run


def open_teacher(given: str, labels: tuple[str, ...], device: torch.device) -> Network:
    """Open a run as a teacher.

    Raises:
        UsageError: no such run.
        ModelError: it knows other classes.
    """
    run = load_run(find_run(given))
    if run.info.labels != labels:
        raise ModelError(
            f"The teacher {run.info.name} knows other classes: {', '.join(run.info.labels[:8])}.",
            hint=f"It must have been trained on the same classes in the same order: {', '.join(labels[:8])}.",
        )
    teacher = restore_network(run).to(device)
    return teacher.requires_grad_(False)


def distillation_loss(logits: Tensor, teacher: Network, pixels: Tensor, temperature: float) -> Tensor:
    """Give the divergence of the student's softened probabilities from the teacher's, times temperature squared.

    Args:
        logits: the student's, float [n, classes].
        teacher: in eval mode; it sees the same images, resized where its rows have another size.
        pixels: float [n, 3, height, width] on 0..255, after augmentation.
        temperature: above 1 shows more of the teacher's doubts.
    """
    with torch.no_grad():
        size = teacher.image_size
        if tuple(pixels.shape[2:]) != size:
            pixels = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        wanted = functional.softmax(teacher.body(teacher.normalised(pixels)) / temperature, dim=1)
    said = functional.log_softmax(logits.float() / temperature, dim=1)
    return functional.kl_div(said, wanted.float(), reduction="batchmean") * temperature**2
