"""`fmx train`: data and a base model in, a run out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import output


def train(
    data: Annotated[str | None, typer.Option(help="digits, cifar10, or a folder with one folder of images a class.", show_default="digits")] = None,
    model: Annotated[str | None, typer.Option(help="efficientnet_lite0, or any torchvision classifier.", show_default="efficientnet_lite0")] = None,
    weights: Annotated[str | None, typer.Option(help="default (pretrained), none, or a .safetensors/.pth file.", show_default="default")] = None,
    method: Annotated[str | None, typer.Option(help="finetune or linear-probe.", show_default="finetune")] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs; training stops early without progress.", show_default="16")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the model's rows in pixels.", show_default="64 for digits and cifar10, else 224")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.", show_default="32")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="1e-3 finetune (head: 10 times that), 1e-2 linear-probe")
    ] = None,
    head_lr_factor: Annotated[float | None, typer.Option(help="The head's rate over the base model's, when fine-tuning.", show_default="10")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's, not on norms and biases.", show_default="0.01")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps in which the rate rises.", show_default="0.1")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="0 switches it off.", show_default="0.05")] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment/--no-augment", help="Scale, shift and turn training rows.", show_default="augment")
    ] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without progress before stopping.", show_default="8")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split, the head, the order and the augmentation.", show_default="0")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
    name: Annotated[str | None, typer.Option(help="Of the run.", show_default="MODEL-N")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of runs.", show_default="runs")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print run.json, and nothing else, on standard output.")] = False,
) -> None:
    """Fine-tune a pretrained model on labelled images and leave a run.

    Example: fmx train --data photos/ --model resnet18 --method linear-probe
    """
    options = {key: value for key, value in locals().items() if key not in ("out", "json")}
    from finetune.settings import check_settings

    check_settings(options)  # before torch is loaded, which takes seconds
    try:
        from finetune.training import train_run
    except ImportError as error:
        from fmx.errors import missing_extra

        raise missing_extra("train", "Training") from error

    run = train_run(out, output.say, **options)
    if json:
        output.answer_json(run.info.model_dump(mode="json"))
        return
    info = run.info
    rows = [
        [
            "test accuracy",
            f"{output.percent(info.accuracy.value)} (95 %: {100 * info.accuracy.low:.2f} to {100 * info.accuracy.high:.2f}, {info.accuracy.n} rows)",
        ],
        ["macro F1", f"{info.metrics['macro_f1']:.4f}"],
        ["calibration error", f"{info.metrics['calibration_error']:.4f}"],
        ["best epoch", f"{info.best_epoch} of {info.epochs}"],
        ["training time", f"{info.train_seconds:.0f} s"],
    ]
    output.table(f"Run {info.name}", ["measure", "value"], rows)
    output.next_step(f"Left {run.folder} (report.html has curves and mistakes).", "fmx export --quantize int8")
