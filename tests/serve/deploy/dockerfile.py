"""A Dockerfile, read as far as the tests ask."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

Instruction = tuple[str, str]


@dataclass(frozen=True)
class Dockerfile:
    """Stages, each a list of instructions after its FROM."""

    starts: list[str]
    stages: list[list[Instruction]]

    @classmethod
    def read(cls, path: Path) -> Dockerfile:
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
        starts: list[str] = []
        stages: list[list[Instruction]] = []
        for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
            name, _, text = line.strip().partition(" ")
            if name == "FROM":
                starts.append(text)
                stages.append([])
            else:
                stages[-1].append((name, text))
        return cls(starts, stages)

    def one(self, name: str) -> str:
        """What the last stage says by an instruction that stands there once."""
        found = [text for instruction, text in self.stages[-1] if instruction == name]
        assert len(found) == 1, (name, found)
        return found[0]

    @property
    def environment(self) -> dict[str, str]:
        """ENV of the last stage."""
        return dict(pair.partition("=")[::2] for pair in self.one("ENV").split())

    def copied(self) -> dict[str, str]:
        """What the last stage copies out of the folder, and where to."""
        copies = [text for name, text in self.stages[-1] if name == "COPY" and "--from" not in text]
        return {text.split()[0]: text.split()[1] for text in copies}
