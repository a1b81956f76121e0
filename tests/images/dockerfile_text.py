"""Dockerfiles as their instructions say: just enough of the syntax for the rules that they keep."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))


@dataclass(frozen=True)
class Instruction:
    """One instruction: `RUN`, its `--options`, and the rest with continued lines joined."""

    name: str
    options: tuple[str, ...]
    rest: str

    @property
    def as_list(self) -> list[str] | None:
        """The words of an instruction in exec form; None in shell form."""
        return json.loads(self.rest) if self.rest.startswith("[") else None


@dataclass
class Stage:
    """What one FROM begins."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """Its instructions of this name."""
        return [each for each in self.instructions if each.name == name]


def stages(path: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, in order; ARG lines before the first are in a stage called ""."""
    found = {"": Stage("", "")}
    current = found[""]
    for instruction in instructions(path.read_text()):
        if instruction.name == "FROM":
            words = instruction.rest.split()
            assert [word.upper() for word in words[1:2]] == ["AS"], f"a stage without a name: FROM {instruction.rest}"
            assert words[2] not in found, f"two stages are called {words[2]}"
            current = found[words[2]] = Stage(words[0], words[2])
        else:
            current.instructions.append(instruction)
    return found


def lineage(path: Path, target: str) -> list[Instruction]:
    """All instructions that make a target, those of its stages' bases first."""
    known = stages(path)
    chain: list[Stage] = []
    while target in known:
        chain.append(known[target])
        target = known[target].base
    return [instruction for stage in reversed(chain) for instruction in stage.instructions]


def instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile's text; comments between continued lines are left out, as Docker does."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        name, _, rest = line.strip().partition(" ")
        options = []
        while match := re.match(r"(--\S+)\s+", rest.lstrip()):
            options.append(match[1])
            rest = rest.lstrip()[match.end() :]
        found.append(Instruction(name.upper(), tuple(options), rest.strip()))
    return found
