"""`fmx pretrain`: unlabelled texts and an encoder in, a better base model for those texts out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmx.cli import output
from fmx.cli.signals import loading
from fmx.errors import UsageError

if TYPE_CHECKING:
    from finetune.pretraining import Pretrained


def _option(text: str, default: str | None = None, *names: str) -> typer.models.OptionInfo:
    made: typer.models.OptionInfo = typer.Option(*names, help=text, show_default=default or False)
    return made


def pretrain(
    data: Annotated[str | None, _option("A table (CSV, JSONL, Parquet), a .txt file with a text a line, a folder of those, or hf:NAME.")] = None,
    model: Annotated[str | None, _option("An encoder's folder or hub name.", "all-minilm-l6-v2")] = None,
    out: Annotated[Path | None, _option("Folder that is made; fmx train takes it as --model.")] = None,
    text_column: Annotated[str | None, _option("Of a table.", "guessed")] = None,
    max_length: Annotated[int | None, _option("Tokens of a window; longer texts are cut into several.", "128")] = None,
    extend_vocab: Annotated[int | None, _option("Most unknown words and characters that become tokens.", "0")] = None,
    whole_words: Annotated[bool | None, _option("Hide words, not pieces of them (WordPiece).", None, "--whole-words")] = None,
    epochs: Annotated[int | None, _option("Most epochs; it stops early without progress.", "3")] = None,
    batch_size: Annotated[str | None, _option("Rows a step, or auto (the fastest, measured).", "32")] = None,
    accumulate: Annotated[int | None, _option("Parts a batch is cut into to save memory.", "1")] = None,
    lr: Annotated[float | None, _option("Peak rate of AdamW.", "5e-4")] = None,
    schedule: Annotated[str | None, _option("cosine, linear or constant.", "cosine")] = None,
    warmup: Annotated[float | None, _option("Share of the steps in which the rate rises.", "0.1")] = None,
    weight_decay: Annotated[float | None, _option("Not on norms and biases.", "0.01")] = None,
    clip_norm: Annotated[float | None, _option("Largest norm of a gradient.", "1")] = None,
    patience: Annotated[int | None, _option("Epochs without progress before stopping.", "8")] = None,
    precision: Annotated[str | None, _option("auto, fp32, bf16 or fp16.", "auto")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda.", "auto")] = None,
    seed: Annotated[int | None, _option("Of what is held out, hidden and drawn.", "0")] = None,
    checkpoint_minutes: Annotated[float | None, _option("Between states inside an epoch.", "10")] = None,
    resume: Annotated[Path | None, _option("The --out of an interrupted pretraining, with its own settings.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")] = False,
) -> None:
    """Train an encoder on, on texts without labels: it learns to tell hidden tokens (BERT's masked-language pretraining).

    Example: fmx pretrain --data reviews.txt --out domain && fmx train --task text-classification --data labelled.csv --model domain

    Example: fmx pretrain --data reviews.csv --extend-vocab 3000 --out domain
    """
    options = {key: value for key, value in locals().items() if key not in ("out", "json", "resume")}
    from finetune.pretraining_settings import check_pretrain_settings

    if resume is None:
        if data is None or out is None:
            raise UsageError("--data and --out are needed.", hint="fmx pretrain --data reviews.txt --out FOLDER")
        check_pretrain_settings(options)  # before torch is loaded, which takes seconds
    with loading("train", "Pretraining"):
        from finetune.pretraining import pretrain as train_on
    show_pretrained(train_on(out, output.say, resume=resume, **options), json)


def show_pretrained(made: Pretrained, json: bool) -> None:
    """Print what a pretraining has reached, and what usually follows."""
    if json:
        output.answer_json({"folder": str(made.folder), **made.facts})
        return
    before, after, rows = made.facts["before"], made.facts["after"], made.facts["rows"]
    table = [
        ["hidden tokens told", output.percent(before["masked_accuracy"]), output.percent(after["masked_accuracy"])],
        ["loss", f"{before['masked_loss']:.4f}", f"{after['masked_loss']:.4f}"],
    ]
    output.table(f"Held out: {rows['held_out']} rows (best epoch {made.facts['best_epoch']})", ["measure", "before", "after"], table)
    output.next_step(f"Left {made.folder}.", f"fmx train --task text-classification --data FILE --model {made.folder}")
