"""Full fine-tuning of texts beside the Hugging Face Trainer: the same rows, network, batch, precision and steps, in turns.

On a CPU it is a part of `python -m benchmarks.text`. On a GPU: `python -m benchmarks.text_training --tokenizer FILE`, with encoders of the usual
shapes and random weights, which take as long as trained ones; it leaves `results/text_training_cuda.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples import write_table
from finetune.loop import Fit
from finetune.network import build_text_network
from finetune.settings import EMBEDDED_TEXT_MODEL
from finetune.training import train_run
from fmx import host
from fmx.contract import TextInput
from fmx.data import open_source
from fmx.data.rows import Rows, read_splits
from fmx.task_names import TEXTS
from fmx.tasks import TextClassification
from fmx.texts import MAX_LENGTH, TOKENIZER_FILE, lengths_of, tokenizer_of

RESULTS = Path(__file__).parent / "results" / "text_training_cuda.json"
HELD_OUT = 60
SHAPES: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
}
"""Of BERTs; what is not said is base's."""


@dataclass(frozen=True)
class Course:
    """What is trained, and how."""

    model: str = EMBEDDED_TEXT_MODEL
    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 32
    rows: int = 640
    workers: tuple[int, ...] = (0,)
    """Of the Trainer's loader of rows."""


def main() -> None:
    """Measure on a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", required=True, help="a CSV of texts and labels")
    parser.add_argument("--tokenizer", required=True, help="a tokenizer.json of BERT's kind")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--rows", type=int, default=4800)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, Any] = {"date": host.now(), "machine": host.describe(), "gpu": torch.cuda.get_device_name(), "versions": host.library_versions()}
    found["courses"] = []
    for shape in given.shapes:
        with tempfile.TemporaryDirectory(prefix="fmx-encoder-") as name:
            write_encoder(Path(name), SHAPES[shape], given.tokenizer)
            for batch in given.batches:
                course = Course(name, "cuda", "bf16", batch, given.rows, workers=(0, 4))
                found["courses"].append({"shape": shape, **rates(Path(given.table), given.rounds, course)})
                print(json.dumps(found["courses"][-1]), flush=True)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def write_encoder(folder: Path, shape: dict[str, Any], tokenizer: str) -> None:
    """Save a BERT of random weights with a tokenizer."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_file=tokenizer, model_max_length=512, **names).save_pretrained(folder)  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    BertModel(BertConfig(**shape)).save_pretrained(folder)


def rates(table: Path, rounds: int, course: Course) -> dict[str, Any]:
    """Time the second epoch of full fine-tuning on rows of mixed lengths, in turns: rows a second of each side."""
    built = build_text_network(course.model, "default", MAX_LENGTH, 2)
    spec = built.network.spec
    assert isinstance(spec, TextInput)
    source = open_source(str(table), task=TEXTS)
    task = TextClassification(source.labels, spec, tokenizer_of(built.files[TOKENIZER_FILE].encode(), TOKENIZER_FILE))
    rows = read_splits(source, task, ("train",))["train"]
    order = np.random.default_rng(0).permutation(len(rows))
    chosen, held = order[: course.rows], order[course.rows : course.rows + HELD_OUT]
    if len(held) < HELD_OUT:
        raise SystemExit(f"{table} has {len(rows)} training rows; {course.rows + HELD_OUT} are wanted.")
    lengths = lengths_of(rows.values[chosen], spec.pad_id)
    ways = {"Trainer": (False, 0), **{f"Trainer, grouped by length{f', {n} workers' if n else ''}": (True, n) for n in course.workers}}
    sides: dict[str, list[float]] = {name: [] for name in ("fmx", *ways)}
    with tempfile.TemporaryDirectory(prefix="fmx-trainers-") as name:
        split = _write_split(Path(name) / "t.csv", rows, chosen, held)
        for turn in range(rounds):
            sides["fmx"].append(_fmx_rate(split, Path(name) / f"runs-{turn}", course))
            for side, (grouped, workers) in ways.items():
                sides[side].append(_trainer_rate(rows, chosen, len(source.labels), Path(name), course, grouped=grouped, workers=workers))
    spread = [int(np.quantile(lengths, share)) for share in (0.05, 0.5, 0.95)]
    return {"rows": course.rows, "batch": course.batch, "precision": course.precision, "tokens": spread, "rows_per_second": sides}


def _write_split(path: Path, rows: Rows, chosen: np.ndarray, held: np.ndarray) -> Path:
    """Write chosen rows as training rows, and the held ones half as validation, half as test rows."""
    splits = {int(i): "train" for i in chosen} | {int(i): ("validation", "test")[place % 2] for place, i in enumerate(held)}
    return write_table(path, ("text", "label", "split"), [(rows.items[i].read().decode(), rows.labels[i], split) for i, split in splits.items()])


def _fmx_rate(table: Path, out: Path, course: Course) -> float:
    """Rows a second of the second of two epochs, on the same rows as the other sides."""
    seen: list[float] = []

    def after_epoch(fit: Fit) -> None:
        seen.append(fit.epochs[-1].rows_per_second)
        if len(seen) == 2:
            raise _Enough

    settings: dict[str, Any] = {"method": "finetune", "epochs": 2, "batch_size": course.batch, "precision": course.precision}
    with suppress(_Enough):
        train_run(out, task=TEXTS, data=str(table), on_epoch=after_epoch, model=course.model, device=course.device, **settings)
    return seen[-1]


class _Enough(Exception):
    """What follows the last epoch is not timed."""


def _trainer_rate(rows: Rows, chosen: np.ndarray, classes: int, folder: Path, course: Course, *, grouped: bool, workers: int) -> float:
    """Rows a second of the Hugging Face Trainer on fmx's own network, with dynamic padding to a multiple of 8."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    body = build_text_network(course.model, "default", MAX_LENGTH, classes).network

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = body

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.network(input_ids)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.05), "logits": logits}

    pad = body.spec.pad_id if isinstance(body.spec, TextInput) else 0
    kept = zip(rows.values[chosen], rows.labels[chosen], strict=True)
    data = [{"input_ids": row[row != pad].tolist(), "labels": int(label)} for row, label in kept]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = -(-max(len(row["input_ids"]) for row in batch) // 8) * 8
        ids = torch.tensor([row["input_ids"] + [pad] * (longest - len(row["input_ids"])) for row in batch], dtype=torch.int32)
        return {"input_ids": ids, "labels": torch.tensor([row["labels"] for row in batch])}

    class Clock(TrainerCallback):
        ends: list[float] = []  # noqa: RUF012 one a call of this function

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            if course.device == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        num_train_epochs=2,
        per_device_train_batch_size=course.batch,
        learning_rate=1e-4,
        weight_decay=0.01,
        max_grad_norm=0.0,
        use_cpu=course.device == "cpu",
        bf16=course.precision == "bf16",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        train_sampling_strategy="group_by_length" if grouped else "random",
    )
    Trainer(model=Model(), args=arguments, train_dataset=data, data_collator=collate, callbacks=[Clock()]).train()
    return len(data) / (Clock.ends[1] - Clock.ends[0])


if __name__ == "__main__":
    main()
