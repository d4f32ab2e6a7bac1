"""`fmx train`: data and a base model in, a run out."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import output
from fmx.cli.signals import loading
from fmx.errors import UsageError

if TYPE_CHECKING:
    from fmx.run import Run

DATA, MODEL, RATE, REGULARISE, LEARN, SPEED, RUNS = (
    "Data",
    "Model and method",
    "Learning rate",
    "Regularisation",
    "Learning from more",
    "Speed",
    "Runs",
)


BASELINES = {"majority": "the most frequent class", "tfidf": "TF-IDF, logistic regression"}


def _option(text: str, panel: str, default: str | None = None, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=default or False)


def train(
    task: Annotated[
        str | None, _option("image-classification, text-classification, token-classification or text-pair.", DATA, "image-classification")
    ] = None,
    data: Annotated[str | None, _option("Class folders, a table (CSV, JSONL, Parquet) of files or of texts, or a name.", DATA, "digits")] = None,
    multi_label: Annotated[bool | None, _option("Rows may have several labels, or none.", DATA, None, "--multi-label")] = None,
    scores: Annotated[bool | None, _option("Labels of pairs are numbers on a scale.", DATA, None, "--scores")] = None,
    text_column: Annotated[str | None, _option("Of a table of texts.", DATA, "guessed")] = None,
    label_column: Annotated[str | None, _option("Of a table of texts.", DATA, "guessed")] = None,
    pair_column: Annotated[str | None, _option("The second text's, of a table of pairs.", DATA, "guessed")] = None,
    query_column: Annotated[str | None, _option("What candidates of one query share: MRR, NDCG and recall are measured.", DATA, "guessed")] = None,
    group_by: Annotated[str | None, _option("Column, or pattern of file names: a group stays in one split.", DATA)] = None,
    allow_leakage: Annotated[bool | None, _option("Train though rows are in two splits.", DATA, None, "--allow-leakage")] = None,
    on_bad_image: Annotated[str | None, _option("skip (up to 5 %) or error.", DATA, "skip")] = None,
    size: Annotated[int | None, _option("Side of the model's rows in pixels.", DATA, "64 for small data, else 224")] = None,
    extend_vocab: Annotated[int | None, _option("Most unknown words and characters that become tokens.", DATA, "0")] = None,
    max_length: Annotated[int | None, _option("Tokens of a text; what is behind is cut off.", DATA, "128")] = None,
    model: Annotated[
        str | None,
        _option(
            "A torchvision classifier, timm:NAME, package.module:callable; an encoder's folder or hub name; run:NAME.",
            MODEL,
            "efficientnet_lite0, or all-minilm-l6-v2",
        ),
    ] = None,
    weights: Annotated[str | None, _option("default (pretrained), none, or a .safetensors/.pth file.", MODEL, "default")] = None,
    method: Annotated[
        str | None, _option("finetune, linear-probe, lp-ft, lora, norm-bias; for texts few-shot, ia3, adapter.", MODEL, "finetune")
    ] = None,
    epochs: Annotated[int | None, _option("Most epochs; training stops early without progress.", MODEL, "12, texts 5, few-shot 100")] = None,
    probe_epochs: Annotated[int | None, _option("Of lp-ft's first stage.", MODEL, "10")] = None,
    probe_views: Annotated[int | None, _option("Augmented views a row whose features are cached.", MODEL, "0")] = None,
    lora_rank: Annotated[int | None, _option("Of the low-rank updates.", MODEL, "8")] = None,
    adapter_width: Annotated[int | None, _option("Of the bottlenecks of adapter.", MODEL, "48")] = None,
    contrastive_epochs: Annotated[int | None, _option("Of few-shot's first stage.", MODEL, "1")] = None,
    contrastive_pairs: Annotated[int | None, _option("Of rows, an epoch of few-shot's first stage.", MODEL, "512")] = None,
    optimiser: Annotated[str | None, _option("adamw or sgd.", RATE, "adamw", "--optimiser", "--optimizer")] = None,
    lr: Annotated[str | None, _option("Peak rate, or auto (range test).", RATE, "by method")] = None,
    head_lr_factor: Annotated[float | None, _option("The head's rate over the base model's.", RATE, "by method")] = None,
    layer_decay: Annotated[float | None, _option("A layer's rate over that of the layer above.", RATE, "1")] = None,
    schedule: Annotated[str | None, _option("cosine, linear or constant.", RATE, "cosine")] = None,
    warmup: Annotated[float | None, _option("Share of the steps in which the rate rises.", RATE, "0.1")] = None,
    batch_size: Annotated[str | None, _option("Rows a step, or auto (the fastest, measured).", RATE, "32")] = None,
    weight_decay: Annotated[float | None, _option("Not on norms and biases.", REGULARISE, "0.01")] = None,
    clip_norm: Annotated[float | None, _option("Largest norm of a gradient.", REGULARISE, "none")] = None,
    patience: Annotated[int | None, _option("Epochs without progress before stopping.", REGULARISE, "8")] = None,
    augment: Annotated[str | None, _option("light, trivial, rand or none.", REGULARISE, "light, texts none")] = None,
    token_dropout: Annotated[float | None, _option("Share of a text's tokens that become unknown.", REGULARISE, "0")] = None,
    label_smoothing: Annotated[float | None, _option("0 switches it off.", REGULARISE, "0.05")] = None,
    mixup: Annotated[float | None, _option("Alpha; 0 is off.", REGULARISE, "0")] = None,
    cutmix: Annotated[float | None, _option("Alpha; 0 is off.", REGULARISE, "0")] = None,
    dropout: Annotated[float | None, _option("Before the head.", REGULARISE, "the model's")] = None,
    drop_path: Annotated[float | None, _option("Stochastic depth of the last block.", REGULARISE, "the model's")] = None,
    ema: Annotated[float | None, _option("Decay of the weights' moving average; 0 is off.", REGULARISE, "0")] = None,
    balance: Annotated[str | None, _option("For rare classes: none, weights or sampler.", REGULARISE, "none")] = None,
    adversarial: Annotated[str | None, _option("none, fgsm (images), fgm (texts), pgd; images report robust accuracy.", REGULARISE, "none")] = None,
    adversarial_eps: Annotated[float | None, _option("Largest change: of a pixel, of 255; of a text's embeddings.", REGULARISE, "4, texts 1")] = None,
    adversarial_steps: Annotated[int | None, _option("Of pgd.", REGULARISE, "3")] = None,
    teacher: Annotated[str | None, _option("A run to imitate.", LEARN)] = None,
    distill_weight: Annotated[float | None, _option("Share of the loss that imitates.", LEARN, "0.5")] = None,
    distill_temperature: Annotated[float | None, _option("Softens the teacher.", LEARN, "2")] = None,
    unlabelled: Annotated[str | None, _option("A folder of images without labels (FixMatch).", LEARN)] = None,
    unlabelled_ratio: Annotated[int | None, _option("Unlabelled rows for each labelled one.", LEARN, "2")] = None,
    unlabelled_threshold: Annotated[float | None, _option("Confidence of a pseudo-label.", LEARN, "0.95")] = None,
    norm_statistics: Annotated[str | None, _option("auto, frozen (the base model's) or batch.", REGULARISE, "auto")] = None,
    accumulate: Annotated[int | None, _option("Parts a batch is cut into to save memory.", SPEED, "1")] = None,
    precision: Annotated[str | None, _option("auto, fp32, bf16 or fp16.", SPEED, "auto")] = None,
    shard: Annotated[bool | None, _option("Split gradients and moments over the processes (FSDP).", SPEED, None, "--shard")] = None,
    compile: Annotated[bool | None, _option("torch.compile the model, if that makes its steps faster here.", SPEED, None, "--compile")] = None,
    gradient_checkpointing: Annotated[bool | None, _option("Recompute activations to save memory.", SPEED, None, "--gradient-checkpointing")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda.", SPEED, "auto")] = None,
    seed: Annotated[int | None, _option("Of the head, the order and the augmentation.", RUNS, "0")] = None,
    split_seed: Annotated[int | None, _option("Of the split, where the data have none.", RUNS, "0")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train so many times, and show the spread.", rich_help_panel=RUNS)] = 1,
    name: Annotated[str | None, _option("Of the run.", RUNS, "MODEL-N")] = None,
    out: Annotated[Path | None, _option("Folder of runs.", RUNS, "runs")] = None,
    resume: Annotated[str | None, _option("An interrupted run, with its own settings.", RUNS)] = None,
    checkpoint_minutes: Annotated[float | None, _option("Between states inside an epoch.", RUNS, "10")] = None,
    config: Annotated[Path | None, _option("YAML, TOML or run.json with these options; flags win.", RUNS)] = None,
    track: Annotated[list[str] | None, _option("wandb or mlflow, beside TensorBoard.", RUNS)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print run.json, and nothing else, on standard output.", rich_help_panel=RUNS)] = False,
) -> None:
    """Fine-tune a pretrained model on labelled images or texts and leave a run.

    Example: fmx train --data photos/ --model resnet18 --method linear-probe

    Example: fmx train --task text-classification --data questions.csv

    Example: fmx train --task token-classification --data names.conll

    Example: fmx train --task text-pair --data answers.csv --query-column question_id
    """
    options = {key: value for key, value in locals().items() if key not in ("out", "json", "resume", "config", "seeds")}
    from finetune.settings import check_settings

    if config is not None:
        from fmx.settings import read_config

        options = {**read_config(config), **{key: value for key, value in options.items() if value is not None}}
    check_settings(options)  # before torch is loaded, which takes seconds
    with loading("train", "Training"):
        from finetune.training import train_run

    if seeds > 1 and resume is not None:
        raise UsageError("--seeds begins new runs, --resume goes on with one.", hint="Leave one of them out.")
    runs = _train_with_seeds(seeds, out, options) if seeds > 1 else [train_run(out, output.say, resume=resume, **options)]
    if int(os.environ.get("RANK", "0")) > 0:  # of several processes the first one answers
        return
    if seeds > 1:
        _show_spread(runs, json)
    else:
        show_run(runs[0], json)


def _train_with_seeds(count: int, out: Path | None, options: dict[str, Any]) -> list[Run]:
    from finetune.training import train_run

    first, name = int(options.get("seed") or 0), options.get("name")
    seeds = range(first, first + count)
    return [train_run(out, output.say, **{**options, "seed": seed, "name": f"{name}-{seed}" if name else None}) for seed in seeds]


def _show_spread(runs: list[Run], json: bool) -> None:
    if json:
        output.answer_json([run.info.model_dump(mode="json") for run in runs])
        return
    judged = [output.judged(run.info.metrics) for run in runs]
    what, values = judged[0][0], [value for _, value in judged]
    is_share = what == "accuracy"
    rows = []
    for run, value in zip(runs, values, strict=True):
        shown = output.interval(run.info.metrics["accuracy"]) if is_share else output.percent(value)
        rows.append([run.info.name, str(run.info.settings["seed"]), shown])
    rows.append(["mean", "", f"{output.percent(statistics.mean(values))} +- {100 * statistics.stdev(values):.2f} (standard deviation)"])
    output.table("Seeds", ["run", "seed", f"test {what}"], rows)
    output.next_step(f"Left {len(runs)} runs.", f"fmx soup {' '.join(run.info.name for run in runs)}")


def show_run(run: Run, json: bool) -> None:
    """Print what a finished run has reached, and what usually follows."""
    if json:
        output.answer_json(run.info.model_dump(mode="json"))
        return
    info = run.info
    metrics = info.metrics
    of = "units of texts" if "entities" in metrics else "rows"
    rows = output.several(metrics.get("labels"), metrics.get("label_baselines"))
    rows += output.scores(metrics.get("scores"), metrics.get("score_baselines"))
    rows += output.entities(metrics.get("entities"), metrics.get("entity_baselines"))
    rows.append(["likeliest grade right" if "scores" in metrics else "test accuracy", output.interval(metrics["accuracy"], of)])
    if "top5_accuracy" in metrics:
        rows.append(["top-5 accuracy", output.interval(metrics["top5_accuracy"])])
    if "robust_accuracy" in metrics:
        rows.append([f"robust accuracy ({metrics['robust_accuracy']['attack']})", output.interval(metrics["robust_accuracy"])])
    for name, value in metrics.get("baselines", {}).items():
        rows.append([f"... of {BASELINES[name]}", output.interval(value, of)])
    rows += output.ranking(metrics.get("ranking"))
    for name, value in metrics.get("ranking_baselines", {}).items():
        rows += output.ranking(value, " of TF-IDF, ridge regression" if "scores" in metrics else f" of {BASELINES[name]}")
    rows += [
        ["macro F1", f"{metrics['macro_f1']:.4f}"],
        ["calibration error", f"{metrics['calibration_error']:.4f} ({metrics['uncalibrated_error']:.4f} before temperature {info.temperature:.3g})"],
        ["best epoch", f"{info.best_epoch} of {info.epochs}"],
        ["training time", f"{info.train_seconds:.0f} s, first step after {info.start_seconds:.1f} s"],
        ["peak memory", f"{metrics['peak_memory_bytes'] / 1e6:,.0f} MB"],
    ]
    output.table(f"Run {info.name}", ["measure", "value"], rows)
    output.next_step(f"Left {run.folder} (report.html has curves and mistakes).", "fmx export --quantize int8")
