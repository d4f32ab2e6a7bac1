from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fmx.contract import Manifest, RunInfo
from serve.settings import ServeSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "contract"), [("manifest.schema.json", Manifest), ("run.schema.json", RunInfo)])
def test_published_schema_is_the_codes(name: str, contract: type[Manifest] | type[RunInfo]) -> None:
    """`make schema` writes them."""
    assert json.loads((ROOT / "docs" / name).read_text()) == json.loads(json.dumps(contract.model_json_schema()))


def test_readme_lists_every_setting_of_the_service() -> None:
    named = set(re.findall(r"^\| `FMX_(\w+)` ", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named == {name.upper() for name in ServeSettings.model_fields} | {"HOME", "DATA", "CACHE"}


def test_every_listed_fault_has_its_tests() -> None:
    listed = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "faults.md").read_text()))
    written = {name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    assert listed <= written
    assert len(re.findall(r"^\| [a-z]", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)) == 19 + 1  # and the head


def test_readme_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
