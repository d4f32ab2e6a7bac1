"""The command `fmx`: its sub-commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from fmx.cli import audit, autoscale, data, keys, signals
from fmx.cli.bench import bench
from fmx.cli.capacity import capacity
from fmx.cli.check import check
from fmx.cli.combine import ensemble, soup
from fmx.cli.compare import compare
from fmx.cli.deploy import deploy
from fmx.cli.doctor import doctor
from fmx.cli.eval import evaluate
from fmx.cli.explain import explain
from fmx.cli.export import export
from fmx.cli.inspect import inspect
from fmx.cli.predict import predict
from fmx.cli.pretrain import pretrain
from fmx.cli.runs import runs
from fmx.cli.serve import serve
from fmx.cli.sign import sign
from fmx.cli.train import train
from fmx.cli.tune import tune
from fmx.cli.verify import verify
from fmx.errors import FmxError, SurroundingsError, disk_errors
from fmx.host import misplaced_rooms

app = typer.Typer(
    name="fmx",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Fine-tune a pretrained model, prove it right as a model package, and serve it: fmx train, fmx export --quantize int8, bentoml serve.",
)
app.command()(train)
app.command()(pretrain)
app.command()(export)
app.command()(tune)
app.command()(soup)
app.command()(ensemble)
app.command()(runs)
app.command()(explain)
app.command()(predict)
app.command("eval")(evaluate)
app.command()(verify)
app.command()(inspect)
app.command()(bench)
app.command()(check)
app.command()(compare)
app.command()(sign)
app.command()(serve)
app.command()(capacity)
app.command()(deploy)
app.add_typer(data.app, name="data")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(autoscale.app, name="autoscale")
app.command()(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fmx {version('fmx-toolkit')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Take the options that come before a command; `main` reads --debug from the command line itself."""


def main() -> None:
    """Run the command line; every way out is an exit code of design: 0, 1 to 7, 130, 143."""
    signals.install()
    try:
        with disk_errors("fmx"):
            _check_rooms()
            app()
    except Exception as error:
        code = signals.exit_code_asked_for()
        if code is not None:
            sys.exit(code)
        if isinstance(error, FmxError):
            _exit(error)
        if _debugging():
            raise
        message = f"Something unforeseen went wrong: {type(error).__name__}: {error}"
        _exit(FmxError(message, hint="This is a fault of fmx. fmx --debug ... shows where; please report it."))


def _check_rooms() -> None:
    misplaced = misplaced_rooms()
    if misplaced:
        raise SurroundingsError(f"fmx's own packages are hidden by: {', '.join(misplaced)}.", hint="Rename that folder, or start fmx elsewhere.")


def _debugging() -> bool:
    return "--debug" in sys.argv[1:]


def _exit(error: FmxError) -> NoReturn:
    if _debugging():
        import traceback

        traceback.print_exception(error)
    typer.echo(f"fmx: {error.message}", err=True)
    if error.hint:
        typer.echo(f"     {error.hint}", err=True)
    sys.exit(error.exit_code)
