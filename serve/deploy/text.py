"""How the files are written: templates beside this file for prose and the Dockerfile, a library for YAML."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from fmx import templates


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes what stands in two places twice: anchors are for machines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))
"""PyYAML takes `12e3` for text and writes it bare; Kubernetes reads a number, where a version of a package was meant."""


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; a missing value is an error."""
    return templates.render("serve.deploy", template, values, is_markup=False)


def yaml_text(content: Any, comment: str = "") -> str:
    """Write one YAML document, under a comment where there is something to say."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=150, allow_unicode=True))


def json_text(content: Any) -> str:
    """Write JSON for people."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
