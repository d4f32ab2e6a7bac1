"""`make schema`: writes the JSON Schemas of run.json and manifest.json to docs/; a test keeps them equal to the code."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from fmx.contract import Manifest, RunInfo

DOCS = Path(__file__).parent.parent / "docs"
SCHEMAS: dict[str, type[BaseModel]] = {"manifest.schema.json": Manifest, "run.schema.json": RunInfo}


def main() -> None:
    """Write the files."""
    for name, contract in SCHEMAS.items():
        (DOCS / name).write_text(json.dumps(contract.model_json_schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
