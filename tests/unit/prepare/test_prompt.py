"""An item becomes what a language model is asked: its conversation, or a message made of its values."""

from __future__ import annotations

from typing import Any

import pytest

from onward.errors import InputError, MissingInput, OutOfRange, TooLarge, WrongDatatype
from onward.package.manifest import parse_manifest
from onward.prepare.prompt import PromptPreparation
from onward.types import Prompt

HEAD = """
format = 1
[package]
name = "writer"
version = "1.0.0"
[[output]]
name = "text"
datatype = "BYTES"
[execute]
backend = "llama"
file = "model.gguf"
[sampling]
temperature = 0.5
max_tokens = 64
[limits]
characters = 200
"""
CHAT = """
[[input]]
name = "messages"
datatype = "BYTES"
content = "chat"
[[input]]
name = "max_tokens"
datatype = "INT32"
required = false
[[input]]
name = "stop"
datatype = "BYTES"
shape = [-1]
required = false
[[prepare]]
step = "prompt"
messages = "messages"
system = "Be brief."
"""
TEMPLATE = """
[[input]]
name = "product"
datatype = "BYTES"
content = "text"
[[input]]
name = "tone"
datatype = "BYTES"
categories = ["plain", "warm"]
default = "plain"
required = false
[[prepare]]
step = "prompt"
template = "Write about {product}, {tone}. {this} stays."
"""


def asked(section: str, item: dict[str, Any]) -> Prompt:
    manifest = parse_manifest(HEAD + section)
    preparation = PromptPreparation(manifest)
    return preparation(preparation.complete(item))


def test_a_conversation_gets_the_system_message_unless_it_brings_its_own() -> None:
    user = {"role": "user", "content": "Hello."}
    own = {"role": "system", "content": "Sing."}
    assert asked(CHAT, {"messages": [user]}).messages == ({"role": "system", "content": "Be brief."}, user)
    assert asked(CHAT, {"messages": [own, user]}).messages == (own, user)
    assert asked(CHAT, {"messages": "Hello."}).messages[1] == user


def test_an_input_named_as_a_value_of_sampling_sets_it_for_the_request() -> None:
    assert asked(CHAT, {"messages": "x"}).sampling.max_tokens == 64
    sampling = asked(CHAT, {"messages": "x", "max_tokens": 5, "stop": ["\n"]}).sampling
    assert (sampling.max_tokens, sampling.stop, sampling.temperature) == (5, ("\n",), 0.5)
    with pytest.raises(OutOfRange) as refused:
        asked(CHAT, {"messages": "x", "max_tokens": 0})
    assert refused.value.where == "max_tokens"


def test_a_template_is_filled_once_with_the_items_values_and_defaults() -> None:
    prompt = asked(TEMPLATE, {"product": "a {tone} lamp"})
    assert prompt.messages == ({"role": "user", "content": "Write about a {tone} lamp, plain. {this} stays."},)


@pytest.mark.parametrize(
    ("section", "item", "error", "where"),
    [
        (CHAT, {}, MissingInput, "messages"),
        (CHAT, {"messages": []}, WrongDatatype, "messages"),
        (CHAT, {"messages": ["x"]}, WrongDatatype, "messages[0]"),
        (CHAT, {"messages": [{"role": "boss", "content": "x"}]}, InputError, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": 1}]}, WrongDatatype, "messages[0].content"),
        (CHAT, {"messages": "x" * 201}, TooLarge, "messages"),
        (TEMPLATE, {"product": 1}, WrongDatatype, "product"),
        (TEMPLATE, {"product": "x", "tone": "loud"}, InputError, "tone"),
    ],
)
def test_what_does_not_fit_is_named(section: str, item: dict[str, Any], error: type[InputError], where: str) -> None:
    with pytest.raises(error) as refused:
        asked(section, item)
    assert refused.value.where == where
