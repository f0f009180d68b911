"""A GGUF file as a package: what is needed to talk with it stands in its metadata, the weights stay as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from onward.errors import PackageError
from onward.package.examples import EXAMPLES_FILE
from onward.package.gguf import read_gguf
from onward.package.importers.draft import Draft
from onward.package.manifest import parse_manifest
from onward.package.records import PackageInfo

MODEL_FILE = "model.gguf"
USUAL_CONTEXT_TOKENS = 4096
# What many files say for what SPDX calls otherwise.
_LICENCES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "gpl-3.0": "GPL-3.0-only"}
_MANIFEST = """
format = 1

[package]
name = "draft"
version = "0"
task = "text-generation"

[[input]]
name = "messages"
datatype = "BYTES"
content = "chat"
description = 'The conversation, oldest first: {{"role": "user", "content": "…"}}; a text alone is a message.'

[[input]]
name = "max_tokens"
datatype = "INT32"
required = false
minimum = 1
description = "How many tokens the answer has at most."

[[input]]
name = "temperature"
datatype = "FP32"
required = false
minimum = 0.0
maximum = 2.0
description = "How freely words are picked; 0 always takes the likeliest."

[[input]]
name = "seed"
datatype = "INT64"
required = false
minimum = 0
description = "The same seed gives the same text again."

[[output]]
name = "text"
datatype = "BYTES"
content = "text"
description = "The answer."

[[output]]
name = "finish_reason"
datatype = "BYTES"
on_request = true
description = "stop, or length where max_tokens or the context ended it."

[[output]]
name = "prompt_tokens"
datatype = "INT64"
on_request = true

[[output]]
name = "completion_tokens"
datatype = "INT64"
on_request = true

[[prepare]]
step = "prompt"
messages = "messages"

[execute]
backend = "llama"
file = "{file}"
context_tokens = {context_tokens}
slots = 4

[limits]
characters = {characters}
deadline_ms = 120000
"""


def draft_of_gguf(file: Path, info: PackageInfo) -> Draft:
    """The draft of a language model; its golden example asks that it answers at all.

    Raises `PackageError` for a file that is no GGUF, or holds no language model.
    """
    facts = read_gguf(file)
    if not facts.architecture or "tokenizer.ggml.model" not in facts.values:
        raise PackageError("no language model: it has no tokenizer", where=file.name, expected="a model of texts")
    context_tokens = min(facts.context_tokens or USUAL_CONTEXT_TOKENS, USUAL_CONTEXT_TOKENS)
    manifest = parse_manifest(
        _MANIFEST.format(file=MODEL_FILE, context_tokens=context_tokens, characters=8 * context_tokens)
    )
    said = f"{facts.name}, {facts.architecture}" if facts.name else facts.architecture
    package = replace(
        info,
        task=manifest.package.task,
        licence=info.licence or _LICENCES.get(facts.licence.lower(), facts.licence),
        description=info.description or f"A language model: {said}.",
    )
    example = {"name": "says something", "input": {"messages": "Hello.", "max_tokens": 8, "seed": 1}, "answer": {}}
    return Draft(
        manifest=replace(manifest, package=package),
        files={MODEL_FILE: file, EXAMPLES_FILE: json.dumps(example).encode() + b"\n"},
    )
