"""The training loop. It knows neither methods nor files: a plan, an objective and a keeper of states come from outside.

Everything random in an epoch comes from one seed, the stage and the epoch's number, so the same seed gives the same result; inside an epoch
the generators' states are part of a checkpoint, so a resumed training is the unbroken one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from finetune.averaging import moving_average
from finetune.checkpoint import Keeper, State
from finetune.interruption import Interruption
from finetune.objectives import Objective
from finetune.optimisation import build_optimiser, rate_factor
from finetune.plan import Plan
from finetune.settings import TrainSettings
from finetune.speed import autocast, is_out_of_memory
from finetune.tasks.units import answered
from finetune.world import World
from fmx.errors import ModelError
from fmx.progress import progress

if TYPE_CHECKING:
    from finetune.sharding import Shards

Say = Callable[[str], None]


BUCKETED = 50
"""Batches of an epoch among which rows of one length are gathered."""
COLLAPSED_EPOCHS = 4
"""Epochs of one answer to everything after which a training is given up."""


@dataclass(frozen=True)
class Epoch:
    """One line of metrics.jsonl."""

    stage: str
    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    """Of entities and of several labels their F1, of scores their correlation"""
    classes_answered: int
    """How many classes the validation rows were said to be."""
    learning_rate: float
    rows_per_second: float
    waiting: float
    """Share of the time that the device waited for rows."""
    seconds: float


@dataclass
class Fit:
    """What a stage has come to: every epoch's numbers, and the weights at the best of them."""

    epochs: list[Epoch] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    keeps_last: bool = False
    may_collapse: bool = True
    """False where one answer to everything is where learning begins: the most frequent token, of hidden ones."""

    @property
    def best(self) -> Epoch:
        """The first epoch with the highest validation accuracy, and of those the lowest validation loss; or the last one where it is kept."""
        return self.epochs[-1] if self.keeps_last else max(self.epochs, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))

    def add(self, epoch: Epoch, module: nn.Module) -> None:
        """Take note of an epoch, and of the module's state when it is the best so far."""
        self.epochs.append(epoch)
        if self.best is epoch:
            self.best_state = copy.deepcopy(module.state_dict())

    @property
    def has_collapsed(self) -> bool:
        """Whether a network that told classes apart now answers one class to everything, epoch after epoch (transformers#297)."""
        if self.keeps_last or not self.may_collapse:
            return False
        before, last = self.epochs[:-COLLAPSED_EPOCHS], self.epochs[-COLLAPSED_EPOCHS:]
        return any(epoch.classes_answered > 1 for epoch in before) and all(epoch.classes_answered == 1 for epoch in last)

    def is_over(self, epochs: int, patience: int) -> bool:
        """Say whether all epochs are done, `patience` of them went by without a better one, or the network has collapsed."""
        has_stalled = bool(self.epochs) and len(self.epochs) - self.best.epoch >= patience
        return len(self.epochs) >= epochs or has_stalled or self.has_collapsed


@dataclass(frozen=True)
class Judged:
    """A module on the validation rows."""

    loss: float
    accuracy: float
    """Of scores their correlation; of entities and of several labels their F1.

    Most units and labels are none, and who says none of them all is right of most.
    """
    classes_answered: int


class Trainer:
    """One stage while it is trained: what it trains with, and everything that changes."""

    def __init__(self, plan: Plan, objective: Objective, settings: TrainSettings, stage: str, epochs: int, world: World, say: Say):
        self.plan, self.objective, self.settings = plan, objective, settings
        self.stage, self.epochs, self.world, self.say = stage, epochs, world, say
        self.precision = settings.precision if plan.on_rows else "fp32"  # a head alone gains nothing from less
        self.device = next(plan.module.parameters()).device
        self.batch_size = int(settings.batch_size)
        freeze_norms(plan.module, every=plan.freeze_statistics)
        self.shards = open_shards(plan.module, self.device, world.size) if world.shards and plan.on_rows else None
        if self.shards is None:
            self.running, self.optimiser = world.prepare(plan.module, build_optimiser(plan.groups, settings.optimiser))
        else:
            self.running, self.optimiser = self.shards.module, build_optimiser(self.shards.groups(plan.groups), settings.optimiser, fused=False)
        if settings.compile and plan.on_rows:
            self.running = torch.compile(self.running)  # type: ignore[assignment]
        self.average = moving_average(plan.module, settings.ema) if settings.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.generator = torch.Generator()
        self.fit = Fit(keeps_last=plan.keeps_last, may_collapse=plan.targets is None)
        self.parts = settings.accumulate
        self.position = 0  # batches done in the running epoch
        self.loss_sum = self.seconds = self.waited = 0.0

    def run(self, keeper: Keeper | None, interruption: Interruption, on_epoch: Callable[[Fit], None]) -> Fit:
        """Train to the end and leave the plan's module with the weights of the best epoch.

        Args:
            keeper: writes states; None where another process does.
            interruption: asked after each step.
            on_epoch: called after each epoch.

        Raises:
            ModelError: the loss became NaN or infinite, or not even one row fits into memory.
            SystemExit, KeyboardInterrupt: a signal asked for it; the state is saved.
        """
        while not self.fit.is_over(self.epochs, self.settings.patience):
            self._train_epoch(keeper, interruption)
            if self.shards is not None:
                self.shards.collect()
            module = self.average.module if self.average is not None else self.plan.module
            self.fit.add(self._summary(evaluate(module, self.plan, self.world, self.precision)), module)
            self.position, self.loss_sum, self.seconds, self.waited = 0, 0.0, 0.0, 0.0
            on_epoch(self.fit)
            self._save_if_due(keeper, epoch_ended=True)
            self._stop_if_asked(keeper, interruption)
        if self.fit.has_collapsed:
            self.say(
                f"The training collapsed: for {COLLAPSED_EPOCHS} epochs every validation row was said to be of one class. "
                f"Epoch {self.fit.best.epoch} is kept. Lower --lr (a tenth is a good try) or raise --warmup; for rare classes --balance weights."
            )
        self.plan.module.load_state_dict(self.fit.best_state)
        return self.fit

    def _train_epoch(self, keeper: Keeper | None, interruption: Interruption) -> None:
        number = len(self.fit.epochs)
        batches = self._batches(number)
        if self.position == 0:
            self._seed(number)
        self.running.train()
        freeze_norms(self.running, every=self.plan.freeze_statistics)
        started = time.perf_counter() - self.seconds
        steps = len(batches) * self.epochs
        rest = batches[self.position :]
        with progress(f"{self.stage} {number + 1}/{self.epochs}", sum(map(len, batches))) as advance:
            advance(sum(map(len, batches[: self.position])))
            for index, inputs in self._gathered(rest):
                self._set_rates(rate_factor(number * len(batches) + self.position, steps, self.settings.warmup, self.settings.schedule))
                self.loss_sum += self._finite(self._step(index, inputs)) * len(index)
                self.position += 1
                advance(len(index))
                self.seconds = time.perf_counter() - started
                self._save_if_due(keeper, epoch_ended=False)
                self._stop_if_asked(keeper, interruption)

    def _seed(self, epoch: int, position: int = 0) -> None:
        """Seed what is random in an epoch, apart in every process: our own draws, and dropout, stochastic depth, torchvision's augmentations."""
        seed = self.settings.seed * 100_003 + epoch + 7_919 * len(self.stage) + 104_729 * position
        self.generator.manual_seed(seed + 1 + self.world.rank)
        torch.manual_seed(seed + self.world.rank)

    def _batches(self, epoch: int) -> tuple[Tensor, ...]:
        """Cut an epoch's order, the same in every process, into batches."""
        generator = torch.Generator().manual_seed(self.settings.seed * 100_003 + epoch)
        labels = self.plan.train_labels
        if self.settings.balance == "sampler":
            weights = 1.0 / torch.bincount(labels).clamp(min=1)[labels].double()
            order = torch.multinomial(weights, len(labels), replacement=True, generator=generator)
        else:
            order = torch.randperm(len(labels), generator=generator)
        batches = split_order(order, self.batch_size, least=2 * self.world.size)
        if self.plan.lengths is None:
            return batches
        return bucket_by_length(batches, self.plan.lengths[0], generator)

    def _gathered(self, batches: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give (index, inputs) of this process's share, and add up how long the device waited for them."""
        waited_from = time.perf_counter()
        for index, inputs in zip(batches, self._inputs(batches), strict=True):
            self.waited += time.perf_counter() - waited_from
            yield index, inputs
            waited_from = time.perf_counter()

    def _inputs(self, batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Gather each batch's inputs; for a GPU the next ones, pinned, while it works. On a CPU a second thread would only take its cores."""
        mine = map(self.world.share, batches)
        if self.device.type != "cuda":
            yield from (self.plan.train_inputs[index] for index in mine)
            return
        with ThreadPoolExecutor(1) as pool:
            coming: Future[Tensor] | None = None
            for index in mine:
                ready, coming = coming, pool.submit(lambda index: self.plan.train_inputs[index].pin_memory(), index)
                if ready is not None:
                    yield ready.result()
            if coming is not None:
                yield coming.result()

    def _step(self, index: Tensor, inputs: Tensor) -> float:
        """Take one optimiser step on a batch of all processes, in as many parts as memory needs, and give its mean loss."""
        labels = self.plan.train_labels[self.world.share(index)].to(self.device)
        while True:
            before = self.generator.get_state(), torch.get_rng_state()
            try:
                loss = self._accumulate(inputs, labels, len(index))
                break
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._split_finer(len(labels), error)
                self.generator.set_state(before[0])
                torch.set_rng_state(before[1])
        self.scaler.unscale_(self.optimiser)
        if self.settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.plan.module)
        return self.world.sums([loss])[0] if self.world.size > 1 else loss

    def _accumulate(self, inputs: Tensor, labels: Tensor, rows: int) -> float:
        """Add up the gradient of a batch over its parts; each row counts the same whatever part it is in.

        Processes' gradients are averaged, so each one's loss is scaled by their number.
        """
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        parts = min(self.parts, rows // self.world.size)  # the same number in every process, and none of them empty
        for part_inputs, part_labels in zip(torch.tensor_split(inputs, parts), torch.tensor_split(labels, parts), strict=True):
            with autocast(self.precision, self.device):
                images = self.plan.batch(part_inputs, self.generator)
                loss = self.objective(self.running, images, part_labels, self.generator) * (len(part_labels) / rows)
            self.scaler.scale(loss * self.world.size).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _split_finer(self, rows: int, error: BaseException) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.world.size > 1:
            raise ModelError("Memory ran out in one of several processes.", hint="Raise --accumulate, or lower --batch-size.") from error
        if self.parts * 2 > rows:
            raise ModelError("Not even two rows of a batch fit into memory.", hint="Use a smaller --size or a smaller --model.") from error
        self.parts *= 2
        self.say(f"Memory ran out: each batch is now cut into {self.parts} parts; its gradient stays the same.")

    def _set_rates(self, factor: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise ModelError("The training diverged: the loss is no longer a number.", hint="Lower the learning rate, for example --lr 1e-4.")
        return loss

    def _parameters(self) -> list[nn.Parameter]:
        """Give what is trained, in the optimiser's order."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def _save_if_due(self, keeper: Keeper | None, *, epoch_ended: bool) -> None:
        due = keeper is not None and keeper.is_due(epoch_ended=epoch_ended)
        if self.world.any(due) if self.shards is not None else due:
            self._save(keeper)

    def _save(self, keeper: Keeper | None) -> None:
        """Write a state in the process that keeps them; the others help to put split tensors together."""
        if keeper is not None or self.shards is not None:
            state = self.state(keep=keeper is not None)
            if keeper is not None:
                keeper.save(state)

    def _stop_if_asked(self, keeper: Keeper | None, interruption: Interruption) -> None:
        if not self.world.any(interruption.number is not None):
            return
        self._save(keeper)
        if keeper is not None:
            self.say("Interrupted; the state is saved.")
        interruption.stop()

    def _summary(self, judged: Judged) -> Epoch:
        rows = len(self.plan.train_labels)
        return Epoch(
            stage=self.stage,
            epoch=len(self.fit.epochs) + 1,
            train_loss=self.loss_sum / rows,
            validation_loss=self._finite(judged.loss),
            validation_accuracy=judged.accuracy,
            classes_answered=judged.classes_answered,
            learning_rate=max(group["lr"] for group in self.optimiser.param_groups),
            rows_per_second=rows / max(self.seconds, 1e-9),
            waiting=self.waited / max(self.seconds, 1e-9),
            seconds=self.seconds,
        )

    def state(self, *, keep: bool = True) -> State:
        """Give everything that `restore` needs to go on exactly here.

        Args:
            keep: false in a process that only helps to put split moments together, and keeps none of them.
        """
        if self.shards is not None:
            self.shards.collect()
        tensors = {f"module.{key}": value for key, value in self.plan.module.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in self.fit.best_state.items()}
        if self.average is not None:
            tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for number, slots in self.optimiser.state_dict()["state"].items():
            moments = {slot: value for slot, value in slots.items() if isinstance(value, Tensor)}
            for slot, value in moments.items():
                whole = value if self.shards is None else self.shards.whole(value).cpu()
                if keep:
                    tensors[f"optimiser.{number}.{slot}"] = whole
        tensors["random.generator"] = self.generator.get_state()
        tensors["random.torch"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        facts = {
            "stage": self.stage,
            "epochs": [asdict(epoch) for epoch in self.fit.epochs],
            "position": self.position,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "waited": self.waited,
            "parts": self.parts,
            "rates": [group["lr"] for group in self.optimiser.param_groups],
            "scaler": self.scaler.state_dict(),
        }
        return State(tensors, facts)

    def restore(self, state: State) -> None:
        """Go back to a state of this stage."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}."): value for key, value in state.tensors.items() if key.startswith(f"{name}.")}

        self.plan.module.load_state_dict(part("module"))
        if self.shards is not None:
            self.shards.spread()
        if self.average is not None:
            self.average.load_state_dict(part("average"))
        slots: dict[int, dict[str, Tensor]] = {}
        parameters = self._parameters()
        for key, value in sorted(part("optimiser").items()):  # in the same order in every process: splitting is done by all at once
            number, _, slot = key.partition(".")
            laid_out = self.shards.split_like if self.shards is not None else _laid_out_like
            slots.setdefault(int(number), {})[slot] = laid_out(parameters[int(number)], value)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})
        for group, rate in zip(self.optimiser.param_groups, state.facts.get("rates", ()), strict=False):  # states of older versions have none
            group["lr"] = rate
        self.scaler.load_state_dict(state.facts["scaler"])
        self.fit = Fit([Epoch(**epoch) for epoch in state.facts["epochs"]], part("best"), self.fit.keeps_last, self.fit.may_collapse)
        for name in ("position", "loss_sum", "seconds", "waited", "parts"):
            setattr(self, name, state.facts[name])
        self.generator.set_state(state.tensors["random.generator"])
        torch.set_rng_state(state.tensors["random.torch"])
        if "random.cuda" in state.tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(state.tensors["random.cuda"], self.device)
        if self.world.rank:  # the state is the first process's, and no two should draw the same
            self._seed(len(self.fit.epochs), self.position)


@torch.inference_mode()
def evaluate(module: nn.Module, plan: Plan, world: World, precision: str, batch_size: int = 128) -> Judged:
    """Judge a module on the validation rows, or what is asked of them, each counted once however many processes there are."""
    module.eval()
    device = next(module.parameters()).device
    classes = plan.targets.classes if plan.targets else int(max(plan.train_labels.max(), plan.validation_labels.max())) + 1
    loss, correct, asked, answers = 0.0, 0, 0, torch.zeros(classes)
    found = np.zeros(plan.judge.size if plan.judge else 0)
    order = torch.arange(len(plan.validation_labels)) if plan.lengths is None else torch.argsort(plan.lengths[1], stable=True)
    for index in torch.split(world.share(order), batch_size):
        inputs = plan.batch(plan.validation_inputs[index], None)
        with autocast(precision, device):
            logits = module(inputs).float()
        wanted = plan.targets.of(inputs) if plan.targets else plan.validation_labels[index].to(device)
        if plan.judge is not None:
            found += plan.judge.sums(logits, wanted)
        logits, wanted = answered(logits, wanted)
        loss += float(nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        said = logits.argmax(dim=1)
        correct += int((said == wanted).sum())
        asked += len(wanted)
        answers += torch.bincount(said.cpu(), minlength=classes)[:classes]
    loss, right, count, *rest = world.sums([loss, correct, asked, *found.tolist(), *answers.tolist()])
    accuracy = plan.judge.measure(np.array(rest[: len(found)])) if plan.judge is not None else right / count
    return Judged(loss / count, accuracy, sum(times > 0 for times in rest[len(found) :]))


def bucket_by_length(batches: tuple[Tensor, ...], lengths: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Deal rows of about one length into the same batch, and the batches in random order: less of a batch is padding then.

    Rows are sorted within stretches of `BUCKETED` batches of an epoch's random order, so that no two epochs have the same batches.

    Args:
        batches: of an epoch, int64 indices each; their sizes are kept.
        lengths: of every row, int64 [n].
        generator: of the order.
    """
    dealt: list[Tensor] = []
    for start in range(0, len(batches), BUCKETED):
        stretch = batches[start : start + BUCKETED]
        rows = torch.cat(stretch)
        ordered = rows[torch.argsort(lengths[rows], stable=True)]
        dealt += torch.split(ordered, [len(batch) for batch in stretch])
    return tuple(dealt[i] for i in torch.randperm(len(dealt), generator=generator).tolist())


def split_order(order: Tensor, size: int, least: int = 2) -> tuple[Tensor, ...]:
    """Cut an epoch's order into batches; a last batch of fewer rows than `least` joins the one before.

    Batch norm cannot learn from one row, nor a process from none.
    """
    batches = torch.split(order, size)
    if len(batches) > 1 and len(batches[-1]) < least:
        return (*batches[:-2], torch.cat(batches[-2:]))
    return batches


def open_shards(module: nn.Module, device: torch.device, processes: int) -> Shards:
    """Split a module over the processes; torch's part of it is loaded here, since no other training needs it."""
    from finetune.sharding import Shards

    return Shards(module, device, processes)


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Give a moment the memory layout of its parameter: fused optimisers pair the two by address, and files are always contiguous."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def freeze_norms(module: nn.Module, *, every: bool) -> None:
    """Keep norms whose weights are frozen, or every norm, from counting batches (pytorch#86590): `train()` would start them again."""
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (every or (own and not any(parameter.requires_grad for parameter in own))):
            part.eval()
