"""`fmx predict`: a package's answers for images or texts, from here or from a running service."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fmx.cli import output
from fmx.errors import FmxError, InputError, UsageError

LABELS = 3
Model = dict[str, str]
"""Name, version and variant."""
Ask = Callable[[bytes], tuple[Model, dict[str, Any]]]
"""Gives who answered, and the prediction for one input."""


def predict(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="A package's folder or name, or latest; then image files, folders, or texts, @FILE; - for standard input; of a model of pairs two "
            "texts a pair. With --url inputs alone.",
            metavar="PACKAGE INPUT...",
        ),
    ],
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels an input, where there are labels.", show_default="3")] = None,
    variant: Annotated[str | None, typer.Option(help="fp32 or int8.", show_default="the first that fits this host")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
    url: Annotated[str | None, typer.Option(help="Ask a running service at this address, such as https://models.example.com.")] = None,
    key: Annotated[str | None, typer.Option(help="Its key; in FMX_KEY it stays out of lists of processes.", show_default="FMX_KEY")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict labels for images, texts or pairs of texts.

    Example: fmx predict latest photos/ --top-k 1 --json

    Example: fmx predict latest "where is my order?"
    """
    from fmx.cli.inputs import READERS
    from fmx.progress import progress

    if url is not None:
        if variant is not None or device is not None:
            raise UsageError("--variant and --device are the service's own affair where --url is given.", hint="Leave them out.")
        inputs = arguments
        noun, model, ask = _service(url, key or os.environ.get("FMX_KEY"), top_k, inputs)
    else:
        if key is not None:
            raise UsageError("--key is for a service.", hint="Give its address with --url, or leave the key out.")
        package, *inputs = arguments
        if not inputs:
            raise UsageError("There is no input.", hint=f"fmx predict {package} photo.jpg")
        noun, model, ask = _package(package, variant, device or "auto", top_k)
    predictions: list[dict[str, Any]] = []
    faults: list[dict[str, str]] = []
    stopped_by: FmxError | None = None
    read = READERS[noun](inputs)
    with progress("Predicting", len(read)) as advance:
        for name, data in read:
            try:
                model, prediction = ask(data)
                predictions.append({"input": name, **prediction})
            except InputError as error:
                faults.append({"input": name, "error": error.message, "hint": error.hint})
            except FmxError as error:  # what was answered before is not lost
                stopped_by = error
                break
            advance(1)
    if stopped_by is not None and not predictions:
        raise stopped_by
    if json:
        output.answer_json({"model": model, "predictions": predictions, "errors": faults})
    else:
        _print(model, predictions, faults)
    if stopped_by is not None:
        raise stopped_by
    if faults:
        raise InputError(f"{len(faults)} of {len(faults) + len(predictions)} inputs could not be read.", hint="The others were answered.")


def _check_top_k(top_k: int | None, has_labels: bool) -> None:
    if top_k is not None and not has_labels:
        raise UsageError("--top-k is for labels, and this model answers with something else.", hint="Leave it out.")


def _package(name: str, variant: str | None, device: str, top_k: int | None) -> tuple[str, Model, Ask]:
    from fmx.package import find_package
    from fmx.predictor import PackagePredictor

    predictor = PackagePredictor.open(find_package(name), variant=variant, device=device)
    _check_top_k(top_k, predictor.task.answers_with == "labels")
    model = predictor.identity
    return predictor.task.noun, model, lambda data: (model, predictor.predict([data], top_k or LABELS)[0])


def _service(url: str, key: str | None, top_k: int | None, inputs: list[str]) -> tuple[str, None, Ask]:
    from fmx.cli.inputs import are_texts
    from fmx.client import ServiceClient

    client = ServiceClient(url, key, say=output.say)
    said, has_labels = client.takes()
    _check_top_k(top_k, has_labels)
    noun = said or ("text" if are_texts(inputs) else "image")

    def ask(data: bytes) -> tuple[Model, dict[str, Any]]:
        answer = client.predict(data, (top_k or LABELS) if has_labels else None, noun)
        return answer["model"], answer["predictions"][0]

    return noun, None, ask


def _cells(entity: dict[str, Any]) -> list[str]:
    return [entity["text"], entity["label"], f"{entity['start']} to {entity['end']}", f"{entity['score']:.3f}"]


def _print(model: Model | None, predictions: list[dict[str, Any]], faults: list[dict[str, str]]) -> None:
    if model is not None and predictions and "entities" in predictions[0]:
        found = [[item["input"], *cells] for item in predictions for cells in [_cells(one) for one in item["entities"]] or [["none", "", "", ""]]]
        output.table(f"{model['name']} ({model['variant']})", ["input", "entity", "kind", "characters", "score"], found)
        predictions = []
    rows = []
    for item in predictions:
        score = [f"{item['score']:.4f}"] if "score" in item else []
        rows.append([item["input"], *score, *(f"{one['label']} {one['score']:.3f}" for one in item.get("labels", ()))])
    if model is not None and rows:
        scored = ["score"] if "score" in predictions[0] else []
        places = max(len(row) for row in rows) - 1 - len(scored)
        output.table(f"{model['name']} ({model['variant']})", ["input", *scored, *(f"{place + 1}." for place in range(places))], rows)
    for fault in faults:
        output.say(f"{fault['input']}: {fault['error']} {fault['hint']}".strip())
