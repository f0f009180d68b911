"""`[sampling]` of a manifest: how its language model picks tokens unless a request says otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onward.package.sections import Document, Section, shown
from onward.types import Sampling

MAX_STOPS = 16
SETTABLE = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty",
    "seed", "stop",
)  # fmt: skip
"""Values that an input of the same name sets for its request; left out, the manifest's counts."""


def read_sampling(document: Document) -> Sampling:
    """The section, with what is wrong noted in the document."""
    section = document.section("sampling")
    usual = Sampling()
    stop = section.names("stop", (), kind="texts")
    if len(stop) > MAX_STOPS:
        section.problem("stop", "too many", expected=f"at most {MAX_STOPS} texts", found=str(len(stop)))
    seed = section.integer("seed", -1, minimum=0, maximum=(1 << 32) - 1) if section.has("seed") else None
    sampling = Sampling(
        max_tokens=section.integer("max_tokens", usual.max_tokens, minimum=1, maximum=1 << 20),
        temperature=_number(section, "temperature", usual.temperature, 0.0, 2.0),
        top_p=_number(section, "top_p", usual.top_p, 0.0, 1.0),
        top_k=section.integer("top_k", usual.top_k, minimum=0, maximum=1 << 20),
        min_p=_number(section, "min_p", usual.min_p, 0.0, 1.0),
        presence_penalty=_number(section, "presence_penalty", usual.presence_penalty, -2.0, 2.0),
        frequency_penalty=_number(section, "frequency_penalty", usual.frequency_penalty, -2.0, 2.0),
        repeat_penalty=_number(section, "repeat_penalty", usual.repeat_penalty, 0.0, 2.0),
        seed=seed,
        stop=stop,
    )
    section.close()
    return sampling


def _number(section: Section, name: str, usual: float, lowest: float, highest: float) -> float:
    value = section.number(name)
    if value is None:
        return usual
    if not lowest <= value <= highest:
        section.problem(name, "out of range", expected=f"{lowest} to {highest}", found=shown(value))
        return usual
    return value


def read_schema(file: Path) -> Mapping[str, Any]:
    """The JSON schema of a package. Raises `ValueError` where it is not a JSON object."""
    schema = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(schema, dict):
        raise ValueError("a JSON schema is an object")
    return schema
