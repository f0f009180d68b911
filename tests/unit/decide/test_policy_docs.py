"""The policies that the docs show are policies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onward.decide.document import DEFAULT
from onward.decide.rules import Rules, parse_policy
from onward.package.manifest import parse_manifest
from tests.unit.decide.policies import HEAD, facts

DOCS = Path(__file__).parents[3] / "docs"
FRAUD = parse_manifest("""format = 1
[package]
name = "fraud"
version = "1.0.0"
[[input]]
name = "Amount"
datatype = "FP32"
[[input]]
name = "card"
datatype = "BYTES"
[[input]]
name = "age"
datatype = "FP32"
required = false
[[output]]
name = "probability"
datatype = "FP32"
""")


def blocks(page: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


def test_the_reference_shows_a_policy_that_loads_and_passes_its_tests() -> None:
    (text,) = blocks("reference/policy.md")
    rules = parse_policy(text, FRAUD)
    assert [rule.name for rule in rules.rules] == ["abstain", "new-device", "cheapest-is-decline"]


@pytest.mark.parametrize("text", blocks("how-to/policy.md"), ids=range(len(blocks("how-to/policy.md"))))
def test_what_the_how_to_shows_can_be_put_into_a_policy(text: str) -> None:
    if text.startswith("format"):
        rules: Rules = parse_policy(text, FRAUD)
    elif text.startswith("when"):
        rules = parse_policy(f"{HEAD}[[rule]]\nname = 'r'\noutcome = 'deny'\nreasons = ['R']\n{text}", FRAUD)
    else:
        decline = (
            "" if "[[rule]]" in text else "[[rule]]\nname = 'r'\nwhen = 'false'\noutcome = 'decline'\nreasons = ['R']\n"
        )
        rules = parse_policy(HEAD + text + decline, FRAUD)
    assert rules.decide(facts({"probability": 0.0}, Amount=1.0)).rule == DEFAULT


def test_every_key_of_an_action_s_argument_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "policy.md").read_text("utf-8")
    for key in ("min_length", "max_length", "pattern", "minimum", "maximum", "enum", "default", "required", "private"):
        assert f"`{key}`" in page
