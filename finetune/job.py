"""What a training is given before its first step: data, network, device, folder. `open_job` puts them together and checks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from finetune import checkpoint
from finetune.base_models import check_model_name
from finetune.baselines import require_baselines
from finetune.bottleneck import adapter_width
from finetune.device import choose_device
from finetune.downloads import ensure_downloaded
from finetune.network import Built, Network, build_network, build_text_network, continue_network
from finetune.regularisation import set_drop_path, set_dropout
from finetune.settings import TrainSettings
from finetune.text_models import Extension, with_adapters
from finetune.world import World
from fmx import storage
from fmx.contract import ImageInput, Input, TextInput
from fmx.data import Source, columns_of, reopen_source
from fmx.data.check import find_leakage
from fmx.data.rows import Rows, read_splits
from fmx.entities import kinds_of
from fmx.errors import DataError, UsageError
from fmx.pairs import texts_of
from fmx.ranking import relevance_of
from fmx.run import Run, find_run, load_run
from fmx.storage import LATEST
from fmx.task_names import IMAGES, READ_TEXTS
from fmx.tasks import TASKS, TEXT_TASKS, ImageClassification, Task
from fmx.texts import MAX_LENGTH, TOKENIZER_FILE, tokenizer_of

Say = Callable[[str], None]
"""Takes a line for a person."""

CONTINUED = "run:"


@dataclass(frozen=True)
class Job:
    """One training: what is trained on what, where its files go, and with whom."""

    folder: Path
    settings: TrainSettings
    world: World
    device: torch.device
    source: Source
    task: Task
    rows: dict[str, Rows]
    built: Built
    say: Say

    @property
    def network(self) -> Network:
        """What is trained."""
        return self.built.network

    @property
    def spec(self) -> Input:
        """What inputs are made into."""
        return self.built.network.spec

    @property
    def states(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / checkpoint.FOLDER


def open_job(settings: TrainSettings, world: World, say: Say, folder: Callable[[], Path]) -> Job:
    """Open the data and build the network.

    Args:
        settings: checked.
        world: the processes.
        say: silent in every process but the first.
        folder: makes or gives the run's folder; asked last, when nothing can go wrong any more.

    Raises:
        DataError, ModelError, UsageError, SurroundingsError: nothing was made.
    """
    device = choose_device(settings.device, world)
    if settings.batch_size != "auto" and settings.batch_size < 2 * world.size:
        raise UsageError(
            f"--batch-size is {settings.batch_size}, shared by {world.size} processes: each needs at least two rows.", hint="Raise it, or use fewer."
        )
    if world.is_first:
        ensure_downloaded(settings.data)
    world.wait()
    source = reopen_source(settings.model_dump())
    torch.manual_seed(settings.seed)
    built = _build(settings, source, say)
    spec = built.network.spec
    task = _task(settings, source.labels, built)
    rows = read_splits(source, task)
    _describe(source, rows, spec, say)
    _check_rows(settings, rows, source, say)
    place = folder()
    pinned = {"model": _pinned(settings.model, CONTINUED), "teacher": settings.teacher and _pinned(settings.teacher)}
    sizes: dict[str, int] = {"size": spec.height} if isinstance(spec, ImageInput) else {}
    if isinstance(spec, TextInput) and continued_run(settings.model) is None:
        sizes = {"max_length": spec.max_length}
    if settings.method == "adapter":
        sizes["adapter_width"] = adapter_width(built.network.body.get_submodule("encoder").config)
    settled = {**pinned, **sizes, "name": place.name, "norm_statistics": _norm_statistics(settings, built.network)}
    settings = settings.model_copy(update=settled)
    return Job(place, settings, world, device, source, task, rows, built, say)


def _build(settings: TrainSettings, source: Source, say: Say) -> Built:
    """Build the network that is trained, from a base model or from a run."""
    run = continued_run(settings.model)
    if run is not None:
        if run.info.task != settings.task:
            raise UsageError(f"{run.info.name} is of the task {run.info.task}, not {settings.task}.", hint=f"Say --task {run.info.task}.")
        built = continue_network(run, settings.size, source.labels)
    elif settings.task in READ_TEXTS:
        require_baselines()
        extension = None
        if settings.extend_vocab:
            extension = Extension(settings.extend_vocab, [text for item in source.splits["train"] for text in texts_of(item.read())], say)
        window = settings.max_length or MAX_LENGTH
        built = build_text_network(settings.model, settings.weights, window, len(source.labels), extension, settings.task)
    else:
        network, base, _ = build_network(settings.model, settings.weights, settings.size or source.suggested_size, len(source.labels))
        built = Built(network, base.weights_origin)
    if settings.method == "adapter":
        built = replace(built, files=with_adapters(built.network.body, built.files, settings.adapter_width))
    if settings.dropout is not None:
        set_dropout(built.network, settings.dropout)
    if settings.drop_path is not None:
        set_drop_path(built.network.body, settings.drop_path)
    return built


def _task(settings: TrainSettings, labels: tuple[str, ...], built: Built) -> Task:
    """Make the task before there is a run that it could be opened from."""
    spec = built.network.spec
    if isinstance(spec, ImageInput):
        return ImageClassification(labels, spec)
    return TEXT_TASKS[settings.task](labels, spec, tokenizer_of(built.files[TOKENIZER_FILE].encode(), f"The tokenizer of {settings.model}"))


def _pinned(given: str, prefix: str = "") -> str:
    """Write `latest` down as the run that it names now: it will name another one when this training is resumed or repeated."""
    return prefix + find_run(None).name if given == prefix + LATEST else given


def _norm_statistics(settings: TrainSettings, network: Network) -> str:
    """Resolve `auto`: statistics that some training has moved from where they start are worth keeping."""
    if settings.norm_statistics != "auto":
        return settings.norm_statistics
    if settings.method == "linear-probe" or isinstance(network.spec, TextInput):
        return "frozen"
    norms = [module for module in network.body.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    return "frozen" if any(norm.running_mean is not None and bool(norm.running_mean.any()) for norm in norms) else "batch"


def check_model(settings: TrainSettings) -> None:
    """Check `--model` before anything is read. Raises: `ModelError`, `UsageError`."""
    if settings.model.startswith(CONTINUED):
        find_run(settings.model.removeprefix(CONTINUED))
    elif settings.task == IMAGES:
        check_model_name(settings.model)


def model_name(settings: TrainSettings) -> str:
    """Give a base model's name without the path of a folder: a run and a package tell nothing of the machine that trained."""
    return storage.stem_of(settings.model) if Path(settings.model).is_dir() else settings.model


def continued_run(model: str) -> Run | None:
    """Open the run that a `--model` continues; None for a base model."""
    return load_run(find_run(model.removeprefix(CONTINUED))) if model.startswith(CONTINUED) else None


def _describe(source: Source, rows: dict[str, Rows], spec: Input, say: Say) -> None:
    skipped = [fault for split in rows.values() for fault in split.skipped]
    for file, reason in skipped:
        say(f"Skipped {file}: {reason}.")
    counts = ", ".join(f"{len(split_rows)} {split}" for split, split_rows in rows.items())
    size = f"{spec.width} x {spec.height} pixels" if isinstance(spec, ImageInput) else f"up to {spec.max_length} tokens"
    what = f"{len(source.labels)} {'grades of scores' if source.has_scores else 'labels' if source.has_several else 'classes'}"
    if source.has_entities:
        what = f"entities of {', '.join(kinds_of(source.labels))}"
    say(f"{source.name}: {what}, {counts} rows of {size}" + (f"; {len(skipped)} inputs skipped." if skipped else "."))
    if any(item.query for item in rows["test"].items) and not source.has_scores and relevance_of(source.labels) is None:
        say("The labels have no order, so that the candidates of a query are not ranked: whole numbers would have one, or yes and no.")


def _check_rows(settings: TrainSettings, rows: dict[str, Rows], source: Source, say: Say) -> None:
    """Refuse rows that would make the measured accuracy wrong (PlantSeg#11: 70 test images were in train), and say what looks like it.

    Raises:
        DataError: the same file in two splits or under two labels, unless leakage is allowed; or a bad image where none may be skipped.
    """
    skipped = [fault for split in rows.values() for fault in split.skipped]
    if skipped and settings.on_bad_image == "error":
        raise DataError(f"{len(skipped)} inputs cannot be read: {skipped[0][0]}: {skipped[0][1]}.", hint="Repair them, or use --on-bad-image skip.")
    said = {found: f"{found.message} (such as {'; '.join(found.examples[:2])})" for found in find_leakage(rows, TASKS[settings.task].noun)}
    errors = [line for found, line in said.items() if found.severity == "error"]
    if errors and not settings.allow_leakage:
        hint = f"fmx data check {source.name}{_options_of_data(settings)} lists them all; --allow-leakage trains all the same."
        raise DataError(f"Training would be misled: {'; '.join(errors)}.", hint=hint)
    for line in said.values():
        say(f"{line}.")


def _options_of_data(settings: TrainSettings) -> str:
    """Write the options that `fmx data check` needs to see the same rows, each with a space before it."""
    options = {"--group-by": settings.group_by, **columns_of(settings.model_dump(), settings.data).options()}
    task = f" --task {settings.task}" if settings.task != IMAGES else ""
    return task + "".join(f" {name} '{value}'" for name, value in options.items() if value)


def base_key(network: Network, spec: Input) -> str:
    """Hash base weights and preprocessing, which with a row fingerprint name cached features."""
    head = f"body.{network.head.path}."
    hashes = [
        storage.sha256_bytes(f"{key} {tuple(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes())
        for key, value in network.state_dict().items()
        if not key.startswith(head)
    ]
    return storage.sha256_bytes(("".join(hashes) + spec.model_dump_json()).encode())
