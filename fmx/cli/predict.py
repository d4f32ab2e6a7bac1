"""`fmx predict`: a package's answers for images."""

from __future__ import annotations

from typing import Annotated

import typer

from fmx.cli import output
from fmx.errors import InputError


def predict(
    package: Annotated[str, typer.Argument(help="A package's folder or name, or latest.")],
    inputs: Annotated[list[str], typer.Argument(help="Image files, folders, or - for standard input.", metavar="INPUT...")],
    top_k: Annotated[int, typer.Option(min=1, help="Labels an image.")] = 3,
    variant: Annotated[str | None, typer.Option(help="fp32 or int8.", show_default="the first that fits this host")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict labels for images.

    Example: fmx predict latest photos/ --top-k 1 --json
    """
    from fmx.cli.inputs import read_inputs
    from fmx.package import find_package
    from fmx.predictor import PackagePredictor

    predictor = PackagePredictor.open(find_package(package), variant=variant, device=device)
    predictions, faults = [], []
    for name, data in read_inputs(inputs):
        try:
            predictions.append({"input": name, **predictor.predict([data], top_k)[0]})
        except InputError as error:
            faults.append({"input": name, "error": error.message})
    if json:
        output.answer_json(
            {
                "model": {"name": predictor.package.name, "version": predictor.package.manifest.version, "variant": predictor.variant.name},
                "predictions": predictions,
                "errors": faults,
            }
        )
    else:
        rows = [[item["input"], *(f"{label['label']} {label['score']:.3f}" for label in item["labels"])] for item in predictions]
        if rows:
            places = max(len(row) for row in rows) - 1
            output.table(f"{predictor.package.name} ({predictor.variant.name})", ["input", *(f"{place + 1}." for place in range(places))], rows)
        for fault in faults:
            output.say(f"{fault['input']}: {fault['error']}")
    if faults:
        raise InputError(f"{len(faults)} of {len(faults) + len(predictions)} inputs could not be read.", hint="The others were answered.")
