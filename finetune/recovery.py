"""Recovery: training a network that was changed (pruned, quantised) back towards the run that it came from, with that run as its teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch

from finetune.interruption import interruptible
from finetune.job import base_key
from finetune.loop import Fit, Trainer
from finetune.methods.finetune import plan_finetune
from finetune.network import Network
from finetune.objectives import build_objective
from finetune.plan import Inputs
from finetune.settings import TrainSettings, check_settings
from finetune.world import World
from fmx.data.rows import Rows
from fmx.run import Run
from fmx.tasks import require_images

RATE = 5e-4
"""Peak rate of AdamW: the network is nearly where it should be."""

KEPT = ("data", "group_by", "label_smoothing", "augment", "balance", "seed", "split_seed", "weight_decay")
"""Settings of the run that its recovery keeps."""


def recovery_settings(run: Run, epochs: int, rate: float = RATE, norms: str = "batch") -> TrainSettings:
    """Give the settings of a recovery: all weights, cosine, distilled from the run itself (Hinton et al. 2015, arXiv:1503.02531)."""
    kept = {key: run.info.settings[key] for key in KEPT if run.info.settings.get(key) is not None}
    fixed = {"method": "finetune", "lr": rate, "head_lr_factor": 1.0, "norm_statistics": norms, "precision": "fp32", "patience": epochs}
    return check_settings({**kept, **fixed, "epochs": epochs, "teacher": str(run.folder), "size": require_images(run.info.input, "recovery").height})


def recover(
    network: Network,
    run: Run,
    rows: dict[str, Rows],
    epochs: int,
    may_flip: bool,
    say: Callable[[str], None],
    what: str,
    *,
    rate: float = RATE,
    norms: str = "batch",
) -> Fit:
    """Train a changed network in place and leave it with the weights of its best epoch on the validation rows.

    Args:
        network: on the CPU or a GPU.
        run: where it came from, and what it learns from.
        rows: decoded, `train` and `validation`.
        epochs: how long.
        may_flip: whether a mirrored image keeps its label.
        say: called with lines for a person.
        what: names the training.
        rate: peak rate.
        norms: `batch` where pruning changed what batch norms see, `frozen` to keep their statistics.

    Raises:
        ModelError: it diverged.
        KeyboardInterrupt, SystemExit: a signal asked for it.
    """
    settings = recovery_settings(run, epochs, rate, norms)
    device = next(network.parameters()).device
    network.to(memory_format=torch.channels_last)
    inputs = Inputs(rows["train"], rows["validation"], may_flip, base_key(network, run.info.input))
    plan = plan_finetune(network, inputs, settings, device)
    objective = build_objective(settings, plan, network, run.info.input, run.info.labels, may_flip, device)
    torch.manual_seed(settings.seed)
    trainer = Trainer(plan, objective, settings, what, epochs, World(), say)

    def on_epoch(fit: Fit) -> None:
        epoch = fit.epochs[-1]
        say(f"{what} {epoch.epoch}/{epochs}  loss {epoch.train_loss:.4f}  validation accuracy {epoch.validation_accuracy:.2%}  {epoch.seconds:.1f} s")

    with interruptible() as interruption:
        fit = trainer.run(None, interruption, on_epoch)
    network.eval()
    return fit
