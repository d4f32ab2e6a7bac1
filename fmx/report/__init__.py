"""Reports as self-contained HTML files: templates beside this file, charts as inline SVG, no outside asset and no script."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; values are escaped, a missing one is an error."""
    environment = Environment(loader=PackageLoader("fmx.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(**values)
