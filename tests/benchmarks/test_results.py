"""What benchmarks/README.md claims stands in the raw numbers beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import readme
from benchmarks.serve_page import best_in_process, serving_section

RESULTS = Path(readme.FOLDER) / "results"


def serving() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "serve.json").read_text())
    return found


def test_what_serving_costs_is_published_bentoml_3431() -> None:
    """BentoML#3431, #4863: slower than a plain server, and nobody said by how much."""
    page = (readme.FOLDER / "README.md").read_text()
    for name, model in serving()["models"].items():
        assert {"fmx", "null", "fastapi-tuned", "litserve-tuned", "bentoml-tuned"} <= model["sides"].keys()
        turn = model["sides"]["fmx"][0]
        assert {"closed", "open", "ready_s", "rss_mb"} <= turn.keys()
        assert best_in_process(model) > 0
        assert f"### {name}, {model['variant']}" in page


def test_page_is_written_from_the_results() -> None:
    assert "\n".join(serving_section(serving())) in (readme.FOLDER / "README.md").read_text()
