"""The story of a continued pretraining: texts, windows, a model with a masked-language head, the loop, a folder. `fmx pretrain` is this function.

Devlin et al. 2019, arXiv:1810.04805; on the texts of a domain: Gururangan et al. 2020, arXiv:2004.10964. While it is trained, states and what they
belong to lie in `OUT.unfinished` beside OUT; OUT appears whole, at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune import checkpoint
from finetune.checkpoint import Keeper, load_state, read_training, write_training
from finetune.device import choose_device
from finetune.interruption import interruptible
from finetune.loop import Fit, Judged, Trainer, evaluate
from finetune.masked_models import MaskedBase, build_masked_model, tokenizer_sha256, write_masked_model
from finetune.masking import masked_loss, targets_of
from finetune.optimisation import parameter_groups
from finetune.plan import Plan, Targets
from finetune.pretraining_settings import PretrainSettings, check_pretrain_settings
from finetune.rows import TextRows
from finetune.settings import TrainSettings
from finetune.speed import choose_batch_size, choose_precision
from finetune.text_models import Extension
from finetune.workplace import check_space, kept_if_resumable
from finetune.world import World, is_launched
from fmx import host, storage
from fmx.contract import TextInput
from fmx.data.corpus import Corpus, open_corpus
from fmx.errors import DataError, UsageError, disk_errors
from fmx.progress import progress
from fmx.texts import lengths_of, reserved_ids, tokenizer_of

Say = Callable[[str], None]
FACTS_FILE = "pretraining.json"
UNFINISHED = ".unfinished"
STAGE = "pretrain"
TOGETHER = 1000
"""Texts that are tokenised at once."""


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining left."""

    folder: Path
    facts: dict[str, Any]
    """As in `FACTS_FILE`."""


def pretrain(out: Path | str | None = None, say: Say = lambda line: None, *, resume: Path | str | None = None, **options: Any) -> Pretrained:
    """Train an encoder to tell hidden tokens of texts, and leave a folder that `fmx train --model` takes.

    Args:
        out: the folder that is made; it must not be there, or be empty.
        say: called with lines for a person.
        resume: the `out` of a pretraining that was interrupted; its own settings are taken.
        options: the fields of `PretrainSettings`.

    Raises:
        UsageError, DataError, ModelError, SurroundingsError: see `fmx.errors`; one that had a state keeps it, and the hint says so.
        SystemExit, KeyboardInterrupt: SIGTERM or Ctrl-C; the state is saved first.
    """
    if is_launched():
        raise UsageError("fmx pretrain trains in one process.", hint="Start it without torchrun or accelerate launch.")
    target = _target(out, resume)
    working = target.with_name(target.name + UNFINISHED)
    states = working / checkpoint.FOLDER
    settings = _settings_of(target, states, options) if resume is not None else check_pretrain_settings(options)
    if resume is None:
        _check_free(target, working)
    device = choose_device(settings.device)
    corpus = open_corpus(settings.data, settings.text_column, settings.seed)
    for note in corpus.notes:
        say(note)
    torch.manual_seed(settings.seed)
    extension = Extension(settings.extend_vocab, corpus.train, say) if settings.extend_vocab else None
    base = build_masked_model(settings.model, settings.max_length, extension, whole_words=settings.whole_words)
    train, held_out = (_windows(texts, base, f"reading {what}") for texts, what in ((corpus.train, "texts"), (corpus.held_out, "held-out texts")))
    _check_windows(settings.data, train, held_out)
    _describe(settings, corpus, base, (len(train), len(held_out)), say)
    if resume is None:
        _reserve(target, working)
    again = f"fmx pretrain --resume {target}"
    try:
        with kept_if_resumable(working, resuming=resume is not None, again=again):
            facts = _train(settings, base, train, held_out, states, device, say)
            return _leave(target, working, base, facts)
    except (SystemExit, KeyboardInterrupt):
        if checkpoint.is_begun(states):
            say(f"To go on: {again}")
        raise


def _target(out: Path | str | None, resume: Path | str | None) -> Path:
    """Give the folder that is made. Raises: `UsageError` when neither or both of two options name it."""
    if (out is None) == (resume is None):
        raise UsageError(
            "Where to?" if out is None else "--resume goes on to the folder that it names, so --out has no place beside it.",
            hint="Give --out FOLDER, or --resume FOLDER to go on.",
        )
    return Path(str(out if resume is None else resume)).resolve()


def _check_free(target: Path, working: Path) -> None:
    """Check that nothing is where the model, or its states, will lie. Raises: `UsageError`."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} exists and is not empty.", hint="Choose another --out, or remove it first.")
    if working.exists():
        raise UsageError(
            f"{working} exists: a pretraining of that name is unfinished, or running.",
            hint=f"Go on with: fmx pretrain --resume {target}, or remove it first.",
        )


def _reserve(target: Path, working: Path) -> None:
    """Make the folder of the states, once. Raises: `UsageError` where another command was first, `SurroundingsError`."""
    _check_free(target, working)
    with disk_errors(f"making {working}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            working.mkdir()
        except FileExistsError:
            _check_free(target, working)
            raise


def _settings_of(target: Path, states: Path, options: dict[str, Any]) -> PretrainSettings:
    """Take the settings that an interrupted pretraining began with. Raises: `UsageError`."""
    given = [key.replace("_", "-") for key, value in options.items() if value is not None]
    if given:
        raise UsageError(f"--resume takes the pretraining's own settings, so --{given[0]} has no place beside it.", hint="Leave it out.")
    if not checkpoint.is_begun(states):
        raise UsageError(f"There is no unfinished pretraining of {target}.", hint=f"It would be in {target.name}{UNFINISHED}, beside it.")
    return check_pretrain_settings(read_training(states)["settings"])


def _windows(texts: Sequence[str], base: MaskedBase, what: str) -> np.ndarray:
    """Cut texts into rows, int32 [n, max_length]; none of their tokens is lost, but for rows without a single one that is known."""
    tokenizer = tokenizer_of(base.tokenizer.encode(), "The tokenizer")
    reserved = reserved_ids(tokenizer, base.spec)
    ordinary = base.masking.ordinary.numpy()
    rows: list[np.ndarray] = []
    with progress(what, len(texts), "texts") as advance:
        for start in range(0, len(texts), TOGETHER):
            part = texts[start : start + TOGETHER]
            for encoding in tokenizer.encode_batch(part, add_special_tokens=False):
                encoding.truncate(base.spec.max_length - base.spec.special_tokens)
                windows = map(tokenizer.post_process, (encoding, *encoding.overflowing))
                rows += [row for window in windows if ordinary[row := _row(window, base.spec, reserved)].any()]
            advance(len(part))
    return np.stack(rows) if rows else np.empty((0, base.spec.max_length), np.int32)


def _row(window: Any, spec: TextInput, reserved: set[int]) -> np.ndarray:
    """Pad a window; a piece of a text that spells a special token is unknown, as in `fmx.texts.TextReader`."""
    told = zip(window.ids, window.special_tokens_mask, strict=True)
    ids = [i for i in (i if is_around or i not in reserved else spec.unknown_id for i, is_around in told) if i is not None]
    row = np.full(spec.max_length, spec.pad_id, np.int32)
    row[: len(ids)] = ids
    return row


def _check_windows(data: str, train: np.ndarray, held_out: np.ndarray) -> None:
    """Check that something can be learnt, and measured. Raises: `DataError`."""
    if len(train) < 2 or not len(held_out):
        raise DataError(
            f"{data} has too few texts with a token that the model knows: {len(train)} rows to learn from, {len(held_out)} held out.",
            hint="Give more texts; where the model does not know their script, --extend-vocab makes tokens of it.",
        )


def _describe(settings: PretrainSettings, corpus: Corpus, base: MaskedBase, rows: tuple[int, int], say: Say) -> None:
    say(
        f"{settings.data}: {len(corpus.train)} texts in {rows[0]} rows of up to {base.spec.max_length} tokens; "
        f"{len(corpus.held_out)} texts in {rows[1]} rows are held out."
    )
    if base.has_fresh_head:
        say(f"{settings.model} ({base.origin}) has no masked-language head: a fresh one is trained, whose last layer is the table of embeddings.")


def _plan(base: MaskedBase, train: np.ndarray, held_out: np.ndarray, settings: PretrainSettings, device: torch.device) -> Plan:
    """Plan to train everything on rows that are masked anew each time, judged on held-out rows masked once."""
    cut = TextRows(base.spec)
    asked = torch.Generator().manual_seed(settings.seed)
    judged = torch.cat([base.masking(part.long(), asked) for part in torch.split(torch.from_numpy(held_out), TOGETHER)])
    lengths = tuple(torch.from_numpy(lengths_of(rows, base.spec.pad_id)) for rows in (train, held_out))

    def batch(rows: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:  # held-out rows, [n, 2, max_length]
            return rows[:, :, : cut(rows[:, 0]).shape[1]].to(device)
        return base.masking(cut(rows), generator).to(device)

    return Plan(
        module=base.module,
        train_inputs=torch.from_numpy(train),
        train_labels=torch.zeros(len(train), dtype=torch.long),
        validation_inputs=judged,
        validation_labels=torch.zeros(len(held_out), dtype=torch.long),
        batch=batch,
        groups=parameter_groups(base.module.parameters(), settings.lr, settings.weight_decay),
        lengths=(lengths[0], lengths[1]),
        targets=Targets(targets_of, base.module.model.config.vocab_size),
    )


def _train(
    settings: PretrainSettings, base: MaskedBase, train: np.ndarray, held_out: np.ndarray, states: Path, device: torch.device, say: Say
) -> dict[str, Any]:
    """Train to the end and give what the folder says of it; the module is left with its best weights."""
    plan = _plan(base, train, held_out, settings, device)
    rows = {"sha256": storage.sha256_bytes(train.tobytes() + held_out.tobytes()), "tokenizer_sha256": tokenizer_sha256(base)}
    saved = read_training(states) if checkpoint.is_begun(states) else {}
    if saved and saved["rows"] != rows:
        raise DataError(
            f"The texts of {settings.data}, or the tokenizer, are not those that this began with.", hint="Bring them back, or begin anew."
        )
    base.module.to(device)
    if not saved:
        loop = _settle_speed(settings, plan, device, say)
        start = evaluate(plan.module, plan, World(), loop.precision)
        settled = {**settings.model_dump(mode="json"), "precision": loop.precision, "batch_size": loop.batch_size}
        saved = {"settings": settled, "rows": rows, "start": asdict(start)}
        parameters = sum(p.numel() * p.element_size() for p in plan.module.parameters())
        check_space(states.parent, parameters, parameters, copies=2)
        write_training(states, saved)
    loop, start = (
        settings.for_loop().model_copy(update={key: saved["settings"][key] for key in ("precision", "batch_size")}),
        Judged(**saved["start"]),
    )
    say(f"Before: {_told(start.accuracy, start.loss)} of the held-out tokens that are hidden. {settings.model} on {device}, {loop.precision}.")
    fit = _fit(plan, loop, states, say)
    best = fit.best
    if best.validation_accuracy <= start.accuracy:
        say("No epoch tells more of the hidden tokens than the model did before: more epochs, more texts or another --lr may help.")
    return {
        "settings": {**saved["settings"], "model": base.origin},
        "rows": {"train": len(train), "held_out": len(held_out), **rows},
        "has_fresh_head": base.has_fresh_head,
        "before": {"masked_accuracy": start.accuracy, "masked_loss": start.loss},
        "after": {"masked_accuracy": best.validation_accuracy, "masked_loss": best.validation_loss},
        "best_epoch": best.epoch,
        "epochs": [asdict(epoch) for epoch in fit.epochs],
        "tools": host.library_versions(),
        "host": host.describe(),
        "created": host.now(),
    }


def _settle_speed(settings: PretrainSettings, plan: Plan, device: torch.device, say: Say) -> TrainSettings:
    """Choose precision and batch size by measurement where they are left open."""
    loop = settings.for_loop()
    generator = torch.Generator().manual_seed(settings.seed)
    example = plan.batch(plan.train_inputs[: min(32, len(plan.train_inputs))], generator)
    plan.module.train()
    precision = choose_precision(settings.precision, plan.module, example, device, say)
    size = settings.batch_size
    if size == "auto":
        size = choose_batch_size(plan.module, example[:1], len(plan.train_inputs), precision, device, say)
    return loop.model_copy(update={"precision": precision, "batch_size": size})


def _fit(plan: Plan, loop: TrainSettings, states: Path, say: Say) -> Fit:
    """Run the loop, from the newest state where there is one."""
    trainer = Trainer(plan, masked_loss, loop, STAGE, loop.epochs, World(), say)
    state = load_state(states, say)
    if state is not None:
        trainer.restore(state)
        say(f"Resumed after epoch {len(trainer.fit.epochs)}, step {trainer.position}.")
    else:
        torch.manual_seed(loop.seed)

    def on_epoch(fit: Fit) -> None:
        epoch = fit.epochs[-1]
        told = _told(epoch.validation_accuracy, epoch.validation_loss)
        say(f"epoch {epoch.epoch:>3}  loss {epoch.train_loss:.4f}  held out {told}  {epoch.rows_per_second:,.0f} rows/s  {epoch.seconds:.1f} s")

    with interruptible() as interruption:
        return trainer.run(Keeper(states, loop.checkpoint_minutes), interruption, on_epoch)


def _told(accuracy: float, loss: float) -> str:
    return f"{accuracy:.2%} (loss {loss:.4f})"


def _leave(target: Path, working: Path, base: MaskedBase, facts: dict[str, Any]) -> Pretrained:
    """Let the folder appear, whole; the states are then no longer needed."""
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    with storage.new_folder(target) as folder:
        write_masked_model(folder, base)
        storage.write_text(folder / FACTS_FILE, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    checkpoint.remove(working)
    return Pretrained(target, facts)
