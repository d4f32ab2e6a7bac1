"""`fmx data`: labelled data looked at before they are trained on, and unlabelled images chosen to be labelled.

What a check prints for a person is in data_report.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmx import storage
from fmx.cli import output
from fmx.cli.signals import loading
from fmx.errors import DataError, UsageError
from fmx.task_names import IMAGES, PAIRS, READ_TEXTS, TEXTS, TOKENS, TaskName

if TYPE_CHECKING:
    from fmx.data import Columns
    from fmx.data.check import Checked, DataCheck, TextCheck

app = typer.Typer(no_args_is_help=True, help="Check labelled data, and choose what to label next.")


@app.command()
def check(
    source: Annotated[
        str, typer.Argument(help="digits, cifar10, hf:NAME, torchvision:NAME, or a folder, manifest or .tar shards; of texts a table or hf:NAME.")
    ],
    task: Annotated[TaskName, typer.Option(help="What the rows are for.")] = IMAGES,
    text_column: Annotated[str | None, typer.Option(help="Of a table of texts, where it cannot be guessed.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of a table of texts, where it cannot be guessed.")] = None,
    pair_column: Annotated[str | None, typer.Option(help="The second text's, of a table of pairs.", show_default="guessed")] = None,
    query_column: Annotated[str | None, typer.Option(help="What candidates of one query share.", show_default="guessed")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json: measure texts in its tokens, not in characters.")] = None,
    max_length: Annotated[int | None, typer.Option(min=8, max=8192, help="Of the model's window in tokens.", show_default="128")] = None,
    split_seed: Annotated[int, typer.Option(help="Of the split, where the data have none.")] = 0,
    group_by: Annotated[
        str | None, typer.Option(help="What keeps rows in one split: a table's column, or a regular expression on the file name.")
    ] = None,
    near: Annotated[
        bool,
        typer.Option(
            "--near/--no-near", help="Look for near duplicates: re-encoded or resized images, texts that differ in case, spaces or final punctuation."
        ),
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    r"""Read every image or text and report what cannot be read, copies within and across splits and labels, what is odd; exits with 3 on an error.

    Example: fmx data check photos/ --group-by 'patient(\d+)_'

    Example: fmx data check questions.csv --task text-classification
    """
    from fmx.cli.data_report import print_check
    from fmx.data import Columns

    columns = Columns(text_column, label_column, pair_column, query_column)
    _check_options(task, columns, tokenizer, max_length)
    checked: Checked
    if task in READ_TEXTS:
        checked = _check_texts(source, task, columns, split_seed, group_by, near, tokenizer, max_length)
    else:
        checked = _check_images(source, split_seed, group_by, near)
    if json:
        output.answer_json(checked.as_json())
    else:
        print_check(checked, _train_command(source, task, columns))
    if checked.errors:
        raise DataError(
            f"{source}: training would be misled: {'; '.join(found.message for found in checked.errors)}.",
            hint="The advice beside each finding says what to do.",
        )


def _check_options(task: TaskName, columns: Columns, tokenizer: Path | None, max_length: int | None) -> None:
    """Refuse options that nothing would be done with. Raises: `UsageError`."""
    of_texts = {"--tokenizer": tokenizer, "--max-length": max_length} if task == IMAGES else {}
    unused = [*columns.unused(task), *(option for option, value in of_texts.items() if value is not None)]
    if unused:
        what = "images" if task == IMAGES else "single texts"
        wanted = PAIRS if columns.unused(TEXTS) else f"{TEXTS}, {TOKENS} or {PAIRS}"
        raise UsageError(f"For {what} {', '.join(unused)} would do nothing.", hint=f"Leave it out, or add --task {wanted}.")
    if max_length is not None and tokenizer is None:
        raise UsageError("--max-length counts tokens, which a tokenizer makes.", hint="Add --tokenizer FILE, the model's tokenizer.json.")


def _check_images(source: str, split_seed: int, group_by: str | None, near: bool) -> DataCheck:
    from fmx.data import open_source, torchvision
    from fmx.data.check import check_source

    if source.startswith(torchvision.PREFIX):
        from finetune.downloads import ensure_downloaded

        ensure_downloaded(source)
    return check_source(open_source(source, split_seed, group_by), near=near)


def _check_texts(
    source: str, task: TaskName, columns: Columns, split_seed: int, group_by: str | None, near: bool, tokenizer: Path | None, max_length: int | None
) -> TextCheck:
    from fmx.data import open_source
    from fmx.data.check import check_texts
    from fmx.tasks import TASKS
    from fmx.texts import MAX_LENGTH

    if tokenizer is not None and not tokenizer.is_file():
        raise UsageError(f"There is no file {tokenizer}.", hint="Give the tokenizer.json of the model; a run has one in its folder.")
    opened = open_source(source, split_seed, group_by, task=task, columns=columns)
    return check_texts(opened, near=near, tokenizer=tokenizer, max_length=max_length or MAX_LENGTH, noun=TASKS[task].noun)


def _train_command(source: str, task: TaskName, columns: Columns) -> str:
    if task == IMAGES:
        return f"fmx train --data {source}"
    return f"fmx train --task {task} --data {source}" + "".join(f" {option} {name}" for option, name in columns.options().items())


@app.command()
def select(
    run: Annotated[str, typer.Argument(help="A run's folder or name.")],
    pool: Annotated[Path, typer.Option(help="A folder of images without labels.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many to label next.")] = 20,
    copy_to: Annotated[Path | None, typer.Option(help="Also copy them into this folder.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose the images whose labels would teach most: those that the run is unsure of and that differ from each other.

    Example: fmx data select resnet18-1 --pool unlabelled/ -n 50 --copy-to to-label/
    """
    from fmx.run import find_run, load_run

    found = load_run(find_run(run))
    with loading("train", "Selecting images"):
        from finetune.selection import select_images
    chosen = select_images(found, pool, count, device)
    if copy_to is not None:
        for number, (name, _) in enumerate(chosen, start=1):
            storage.write_bytes(copy_to / f"{number:04d}-{Path(name).name}", (pool / name).read_bytes())
    if json:
        output.answer_json([{"file": name, "entropy": entropy} for name, entropy in chosen])
        return
    output.table(f"To label next, by {found.info.name}", ["file", "entropy"], [[name, f"{entropy:.3f}"] for name, entropy in chosen])
    if copy_to is not None:
        typer.echo(f"Left {len(chosen)} copies in {copy_to}.")
