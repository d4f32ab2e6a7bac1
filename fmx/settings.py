"""Turning a person's options into checked settings: unknown keys get the nearest name, and all problems are reported at once."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fmx.errors import UsageError, nearest_names

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
        raise UsageError("; ".join(_fault(settings, fault, prefix) for fault in error.errors()) + ".", hint=f"See: {see}") from error


def _fault(settings: type[BaseModel], fault: Any, prefix: str) -> str:
    key = str(fault["loc"][0]) if fault["loc"] else ""
    name = prefix + (key.upper() if prefix == "FMX_" else key.replace("_", "-"))
    if fault["type"] == "extra_forbidden":
        near = nearest_names(key, list(settings.model_fields))
        return f"there is no option {name}" + (f" (did you mean {near}?)" if near else "")
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    return f"{name} is {fault['input']!r}: {message}"
