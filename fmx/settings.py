"""Turning a person's options into checked settings: unknown keys get the nearest name, and all problems are reported at once."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fmx.errors import UsageError, first_line, missing_extra, nearest_names

Settings = TypeVar("Settings", bound=BaseModel)


def check(settings: type[Settings], values: dict[str, Any], see: str, prefix: str = "--") -> Settings:
    """Build settings from options; None means the default.

    Args:
        settings: a frozen pydantic model.
        values: options by field name.
        see: the command that lists them.
        prefix: how a person writes an option: `--` on the command line, `FMX_` in the environment.

    Raises:
        UsageError: unknown keys or values out of range.
    """
    try:
        return settings(**{key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        faults = dict.fromkeys(_fault(settings, fault, prefix) for fault in error.errors())
        raise UsageError("; ".join(faults) + ".", hint=f"See: {see}") from error


def _fault(settings: type[BaseModel], fault: Any, prefix: str) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not fault["loc"]:
        return str(message)
    key = str(fault["loc"][0])
    name = prefix + (key.upper() if prefix == "FMX_" else key.replace("_", "-"))
    if fault["type"] == "extra_forbidden":
        near = nearest_names(key, list(settings.model_fields))
        return f"there is no option {name}" + (f" (did you mean {near}?)" if near else "")
    return f"{name} is {fault['input']!r}: {message}"


def read_config(path: Path) -> dict[str, Any]:
    """Read options from a YAML or TOML file, or from a run.json, whose settings are taken.

    Keys may be written as on the command line (`batch-size`) or as in run.json (`batch_size`).

    Raises:
        UsageError: no such file, or it holds no table of options.
    """
    if not path.is_file():
        raise UsageError(f"There is no config file {path}.", hint="Give a .yaml, .toml or run.json file.")
    try:
        content = _parse(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}", hint="It must be YAML, TOML, or a run.json.") from error
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        content = {key: value for key, value in content["settings"].items() if key != "name"}
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no options.", hint="Write one option a line, such as: epochs: 20")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _parse(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return tomllib.loads(text)
    if path.suffix == ".json":
        return json.loads(text)
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("train", "Reading YAML") from error
    try:
        return yaml.load(text, Loader=_number_loader(yaml))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _number_loader(yaml: Any) -> Any:
    """PyYAML reads `1e-3` as text (YAML 1.1 wants a dot); people write it as a number."""
    import re

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))
    return Loader
