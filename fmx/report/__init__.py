"""Reports as self-contained HTML files: templates beside this file, charts as inline SVG, no outside asset and no script."""

from __future__ import annotations

from typing import Any

from fmx import templates


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; values are escaped, a missing one is an error."""
    return templates.render("fmx.report", template, values)
