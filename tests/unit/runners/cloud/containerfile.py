"""Containerfiles as they are written here, read back: stages of instructions, with their arguments."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction; `words` of the exec form, or its text in words."""

    name: str
    text: str

    @property
    def is_exec(self) -> bool:
        """Whether its command is a JSON array, which no shell reads."""
        return self.text[self.text.find("[") :].startswith("[") and self.text.endswith("]")

    @property
    def words(self) -> list[str]:
        """Its arguments, without options."""
        if self.is_exec:
            return [str(word) for word in json.loads(self.text[self.text.find("[") :])]
        return [word for word in self.text.split() if not word.startswith("--")]

    @property
    def options(self) -> dict[str, str]:
        """What stands before the arguments as `--name=value`."""
        return dict(re.findall(r"--([a-z-]+)=(\S+)", self.text.partition("[")[0]))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What follows one FROM."""

    base: str
    name: str
    steps: list[Instruction] = field(default_factory=list)

    def of(self, name: str) -> list[Instruction]:
        """The instructions of that name."""
        return [step for step in self.steps if step.name == name]


def read(file: Path) -> list[Stage]:
    """The stages, in their order."""
    text = re.sub(r"\\\n\s*", " ", file.read_text("utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stages: list[Stage] = []
    for line in lines:
        name, _, rest = line.partition(" ")
        if name == "FROM":
            image, _, called = rest.partition(" AS ")
            stages.append(Stage(base=image, name=called))
        elif stages:
            stages[-1].steps.append(Instruction(name=name, text=rest))
    return stages
