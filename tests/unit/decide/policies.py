"""A package's manifest and its policy, for the tests of policies."""

from __future__ import annotations

from typing import Any

from onward.decide.policy import Facts
from onward.decide.rules import Rules, parse_policy
from onward.package.manifest import Manifest, parse_manifest

MANIFEST_TEXT = """format = 1
[package]
name = "fraud"
version = "1.0.0"
[[input]]
name = "Amount"
datatype = "FP64"
[[input]]
name = "count"
datatype = "INT64"
[[input]]
name = "card"
datatype = "BYTES"
required = false
default = "unknown"
[[input]]
name = "age"
datatype = "FP32"
required = false
[[input]]
name = "new"
datatype = "BOOL"
[[input]]
name = "history"
datatype = "FP32"
shape = [-1]
[[input]]
name = "merchant-id"
datatype = "INT32"
[[output]]
name = "probability"
datatype = "FP32"
[[output]]
name = "shares"
datatype = "FP32"
shape = [2]
[[output]]
name = "scores"
datatype = "FP32"
shape = [3]
[[output]]
name = "explanation"
datatype = "FP32"
on_request = true
[[generate]]
step = "labels"
scores = "scores"
[[generate]]
step = "named"
input = "shares"
names = ["food", "travel"]
"""
HEAD = """format = 1
[policy]
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
"""
HOLD = """[[action]]
name = "hold"
approval = "arguments.amount > 50.0"
[action.arguments]
card = { type = "string", max_length = 40, pattern = "[a-z0-9-]+", private = true }
amount = { type = "number", minimum = 0, maximum = 10000 }
"""
COSTS = """[costs]
probability = "result.probability"
[costs.outcomes]
approve = { positive = "input.Amount", negative = "0.0" }
review = { positive = 3.0, negative = 3.0 }
decline = { positive = 0, negative = 8 }
"""


def manifest() -> Manifest:
    """Inputs and outputs of every kind that a rule may meet."""
    return parse_manifest(MANIFEST_TEXT)


def policy(*parts: str) -> Rules:
    """The policy of the usual head and these parts."""
    return parse_policy(HEAD + "".join(parts), manifest())


def rule(name: str, when: str, outcome: str = "decline", *, more: str = "") -> str:
    """One `[[rule]]`; its reason is its name in capitals."""
    reason = name.upper().replace("-", "_")
    return f"[[rule]]\nname = '{name}'\nwhen = '''{when}'''\noutcome = '{outcome}'\nreasons = ['{reason}']\n{more}\n"


def facts(answer: dict[str, Any] | None = None, *, failure: str = "", **given: Any) -> Facts:
    """A case: Amount 100, probability 0.9, unless said otherwise; keywords go to the input, `None` takes one away."""
    item: dict[str, Any] = {"Amount": 100.0, "count": 2, "card": "c1", "age": 30.0, "new": False, "history": [1.0, 2.0]}
    item |= given
    usual = {"probability": 0.9, "label": "a", "score": 0.8, "shares": {"food": 0.25, "travel": 0.75}}
    return Facts(
        answer=None if failure else usual | (answer or {}),
        input={name: value for name, value in item.items() if value is not None},
        now_s=1_767_225_600.0,
        failure=failure,
    )
