"""A real policy with actions, and the keys that seal for them, for the tests of `act`."""

from __future__ import annotations

from onward.decide.policy import Facts
from onward.decide.rules import Rules, parse_policy
from onward.package.manifest import parse_manifest
from onward.store.keys import Keys
from onward.types import PackageId

PACKAGE = PackageId(name="fraud", version="1", digest="d")
MANIFEST = """format = 1
[package]
name = "fraud"
version = "1"
[[input]]
name = "Amount"
datatype = "FP64"
[[input]]
name = "card"
datatype = "BYTES"
[[input]]
name = "note"
datatype = "BYTES"
required = false
default = ""
[[output]]
name = "probability"
datatype = "FP32"
"""
POLICY = """format = 1
[policy]
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
[[rule]]
name = "refund"
when = "input.note != ''"
reasons = ["R"]
outcome = "refund"
[[rule.action]]
name = "refund"
arguments = { card = "input.card", amount = "input.Amount", note = "input.note" }
[[rule]]
name = "sure"
when = "result.probability > 0.9"
reasons = ["R"]
outcome = "decline"
[[rule.action]]
name = "hold"
arguments = { card = "input.card", amount = "input.Amount" }
[[rule.action]]
name = "tell"
arguments = { card = "input.card" }
[[cap]]
outcome = "refund"
at_most = 2
per_s = 3600
otherwise = { outcome = "review", reasons = ["RATE_CAP"] }
[[action]]
name = "hold"
approval = "arguments.amount > 50.0"
approval_expires_s = 600
compensation = "release"
[action.arguments]
card = { type = "string", max_length = 40, pattern = "[a-z0-9-]+" }
amount = { type = "number", minimum = 0, maximum = 10000 }
[[action]]
name = "release"
[action.arguments]
card = { type = "string", max_length = 40, pattern = "[a-z0-9-]+" }
amount = { type = "number", minimum = 0, maximum = 10000 }
[[action]]
name = "tell"
[action.arguments]
card = { type = "string", private = true }
[[action]]
name = "refund"
[action.arguments]
card = { type = "string", max_length = 40, pattern = "[a-z0-9-]+" }
amount = { type = "number", minimum = 0, maximum = 100 }
note = { type = "string", max_length = 60 }
"""


def rules() -> Rules:
    return parse_policy(POLICY, parse_manifest(MANIFEST))


def facts(amount: float = 20.0, *, card: str = "c1", note: str = "", refunds: int = 0) -> Facts:
    return Facts(
        answer={"probability": 0.99},
        input={"Amount": amount, "card": card, "note": note},
        now_s=0.0,
        recent={"refund": refunds},
    )


def keys_of_test() -> Keys:
    """Keys under an installation key that is the same for all of a test."""
    return Keys(bytes(range(32)))
