"""Filling the templates that lie beside a package's code."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(package: str, template: str, values: dict[str, Any], *, folder: str = "templates", is_markup: bool = True) -> str:
    """Fill a template; a missing value is an error.

    Args:
        package: such as `fmx.report`.
        template: a file's name.
        values: by name; `| json` writes one as JSON for people.
        folder: in the package.
        is_markup: values are escaped.
    """
    options: dict[str, Any] = {"autoescape": is_markup, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader(package, folder), **options)
    environment.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment.get_template(template).render(**values)
