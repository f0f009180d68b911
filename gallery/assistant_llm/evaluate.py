"""How often the built package `assistant-llm` keeps to a JSON schema, over prompts and schemas of many kinds.

    python -m gallery.assistant_llm.evaluate [PACKAGE]

Each of the prompts asks for something as JSON by a schema of its own, made by a seeded generator: objects of texts,
numbers, booleans, enumerations, lists and objects within. Valid is a text that is JSON and that the library jsonschema
finds to fit. How true it is what the text says is another matter, and not measured.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema

from onward.streaming import StreamingPipeline
from onward.types import CancelToken, Prompt, Sampling

PROMPTS = 240
THINGS = ("a cat", "a city in Japan", "a pop song", "an order of shoes", "a film", "a recipe for soup", "a flight",
          "a bug report", "a patient", "a planet", "a job offer", "a football match", "a house for sale", "a bicycle",
          "a bank transfer", "an email to a friend")  # fmt: skip
NAMES = ("name", "title", "kind", "price", "count", "tags", "notes", "rating", "active", "owner", "size", "colour",
         "date", "parts", "score", "place")  # fmt: skip
TEMPERATURE = 0.7


def main() -> None:
    """Ask, check, print."""
    parser = argparse.ArgumentParser(
        prog="python -m gallery.assistant_llm.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("package", nargs="?", type=Path, default=Path("var/repository/assistant-llm/1.0.0"))
    options = parser.parse_args()
    started = time.perf_counter()
    with StreamingPipeline.open(options.package) as pipeline:

        def ask(number: int) -> str:
            chance = random.Random(number)
            schema = schema_of(chance)
            said = f"Describe {chance.choice(THINGS)} as JSON."
            sampling = Sampling(max_tokens=700, temperature=TEMPERATURE, seed=number, json_schema=schema)
            prompt = Prompt(messages=({"role": "user", "content": said},), sampling=sampling)
            answer = list(pipeline.run(prompt, CancelToken()))[-1].attributes["answer"]
            return problem(answer, schema)

        with ThreadPoolExecutor(pipeline.manifest.execute.slots) as threads:
            problems = list(threads.map(ask, range(PROMPTS)))
    for number, found in enumerate(problems):
        if found:
            print(f"  {number}: {found}")
    valid = problems.count("")
    print(f"{valid} of {PROMPTS} texts valid by their schema ({valid / PROMPTS:.1%}), temperature {TEMPERATURE},"
          f" in {time.perf_counter() - started:.0f} s")  # fmt: skip


def schema_of(chance: random.Random) -> Mapping[str, Any]:
    """A schema of an object: closed, every member required, nothing without an end."""
    return _object(chance, depth=0)


def problem(answer: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What is wrong with a text; "" where it is valid."""
    if answer["finish_reason"] != "stop":
        return f"cut off: {answer['finish_reason']}"
    try:
        jsonschema.validate(json.loads(answer["text"]), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{str(error).splitlines()[0]} in {answer['text'][:80]}"
    return ""


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    names = chance.sample(NAMES, chance.randint(2, 5 if depth == 0 else 3))
    members = {name: _member(chance, depth + 1) for name in names}
    return {"type": "object", "properties": members, "required": names, "additionalProperties": False}


def _member(chance: random.Random, depth: int) -> dict[str, Any]:
    kinds = ["text", "number", "integer", "boolean", "choice", "list"] + (["object"] if depth < 3 else [])
    kind = chance.choice(kinds)
    if kind == "text":
        return {"type": "string", "maxLength": chance.choice((10, 40, 80))}
    if kind == "integer":
        return {"type": "integer", "minimum": 0, "maximum": chance.choice((10, 1000, 100_000))}
    if kind == "choice":
        return {"enum": chance.sample(["small", "large", "red", "blue", "new", "old", "yes", "no"], 3)}
    if kind == "list":
        return {"type": "array", "items": _member(chance, 3), "minItems": 1, "maxItems": chance.randint(1, 4)}
    return _object(chance, depth) if kind == "object" else {"type": kind}


if __name__ == "__main__":
    main()
