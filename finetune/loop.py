"""The training loop. It reads top to bottom and knows neither methods nor files.

Everything random in an epoch comes from one seed and the epoch's number, so the same seed gives the same result and an epoch can be
repeated by itself.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from finetune.plan import Plan
from finetune.schedule import rate_factor
from finetune.settings import TrainSettings
from fmx.errors import ModelError
from fmx.progress import progress

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Epoch:
    """One line of metrics.jsonl."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    rows_per_second: float
    seconds: float


@dataclass
class Fit:
    """What the loop ends with: every epoch's numbers, and the module's state at the best of them."""

    epochs: list[Epoch] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> Epoch:
        """The first epoch with the highest validation accuracy, and of those the lowest validation loss."""
        return max(self.epochs, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))

    def add(self, epoch: Epoch, module: nn.Module) -> None:
        """Take note of an epoch, and of the module's state when it is the best so far."""
        self.epochs.append(epoch)
        if self.best is epoch:
            self.best_state = copy.deepcopy(module.state_dict())


def fit(
    plan: Plan,
    train_labels: Tensor,
    validation_labels: Tensor,
    loss: Loss,
    settings: TrainSettings,
    device: torch.device,
    on_epoch: Callable[[Epoch], None],
) -> Fit:
    """Train a plan and leave its module at the best epoch.

    Args:
        plan: from a method.
        train_labels: int64 [n], in the order of the plan's inputs.
        validation_labels: int64 [m].
        loss: of logits [b, classes] and labels [b]; the label smoothing in it is a matter of training alone.
        settings: epochs, batch size, warm-up, patience and seed.
        device: where the module lives.
        on_epoch: called after each epoch.

    Raises:
        ModelError: the loss became NaN or infinite.
    """
    module, result = plan.module, Fit()
    optimiser = torch.optim.AdamW([{**group, "lr": group["peak"]} for group in plan.groups])
    steps_an_epoch = len(_batches(torch.arange(len(train_labels)), settings.batch_size))
    steps = steps_an_epoch * settings.epochs
    for number in range(settings.epochs):
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + number)
        torch.manual_seed(settings.seed * 100_003 + number)  # dropout and stochastic depth
        order = torch.randperm(len(train_labels), generator=generator)
        started, total_loss, peak_rate = time.perf_counter(), 0.0, 0.0
        module.train()
        with progress(f"epoch {number + 1}/{settings.epochs}", len(order)) as advance:
            for position, index in enumerate(_batches(order, settings.batch_size)):
                factor = rate_factor(number * steps_an_epoch + position, steps, settings.warmup)
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * factor
                peak_rate = max(peak_rate, max(group["lr"] for group in optimiser.param_groups))
                logits = module(plan.batch(plan.train_inputs[index], generator))
                batch_loss = loss(logits, train_labels[index].to(device))
                optimiser.zero_grad(set_to_none=True)
                batch_loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total_loss += _finite(float(batch_loss.detach())) * len(index)
                advance(len(index))
        seconds = time.perf_counter() - started
        validation_loss, validation_accuracy = evaluate(plan, validation_labels, device)
        epoch = Epoch(
            epoch=number + 1,
            train_loss=total_loss / len(order),
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            learning_rate=peak_rate,
            rows_per_second=len(order) / seconds,
            seconds=seconds,
        )
        result.add(epoch, module)
        on_epoch(epoch)
        if epoch.epoch - result.best.epoch >= settings.patience:
            break
    module.load_state_dict(result.best_state)
    return result


@torch.inference_mode()
def evaluate(plan: Plan, labels: Tensor, device: torch.device, batch_size: int = 128) -> tuple[float, float]:
    """Give plain cross-entropy and accuracy on the validation rows."""
    plan.module.eval()
    loss, correct = 0.0, 0
    for start in range(0, len(labels), batch_size):
        logits = plan.module(plan.batch(plan.validation_inputs[start : start + batch_size], None))
        wanted = labels[start : start + batch_size].to(device)
        loss += float(nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        correct += int((logits.argmax(dim=1) == wanted).sum())
    return loss / len(labels), correct / len(labels)


def _batches(order: Tensor, size: int) -> tuple[Tensor, ...]:
    """Cut an epoch's order into batches; a last batch of one row joins the one before, since batch norm cannot learn from one row."""
    batches = torch.split(order, size)
    if len(batches) > 1 and len(batches[-1]) == 1:
        return (*batches[:-2], torch.cat(batches[-2:]))
    return batches


def _finite(loss: float) -> float:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise ModelError("The training diverged: the loss is no longer a number.", hint="Lower the learning rate, for example --lr 1e-4.")
    return loss
