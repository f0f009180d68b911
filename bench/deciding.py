"""The package that the bench of decisions serves: a tiny model, a policy of 20 rules, one of which acts.

Also the requests that are sent to it, and the file that says where its action goes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

NAME = "tiny"
UNDECIDED = "tiny-undecided"
"""The same package without a policy: what the same requests cost where nothing is decided."""
ACTION = "hold"
BODIES = 64
ACTING = 4
"""Of 64 requests so many come to the rule that acts: one in 16."""

_HEAD = """format = 1
[policy]
name = "tiny"
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
"""
_RULE = '[[rule]]\nname = "{name}"\nwhen = "{when}"\noutcome = "{outcome}"\nreasons = ["{reason}"]\n'
_ACTING = """arguments = { amount = "input.x[1]" }
[[rule.action]]
name = "hold"
arguments = { amount = "input.x[1]", reason = "'large'" }
"""
_TAIL = """[[cap]]
outcome = "decline"
at_most = 1000000
per_s = 60
otherwise = { outcome = "review", reasons = ["RATE_CAP"] }
[[action]]
name = "hold"
[action.arguments]
amount = { type = "number", minimum = 0, maximum = 100000 }
reason = { type = "string", max_length = 40 }
"""
RULES = 20


def policy_text() -> str:
    """19 rules over the answer and the input that rarely fire, and at the end the one that acts."""
    kinds = (
        "result.y[{at}] > 1000.0 + {n}.0",
        "input.x[{at}] > 50000.0 + {n}.0 && result.y[0] > 1.0",
        "input.x[0] + input.x[1] + input.x[2] > 9000.0 + {n}.0",
        "input.x[1] * result.y[{at}] > 5000000.0 + {n}.0 || input.x[2] < -{n}.0",
    )
    rules = [
        _RULE.format(name=f"r{n}", when=kinds[n % 4].format(at=n % 3, n=n), outcome="review", reason=f"REASON_{n}")
        for n in range(RULES - 1)
    ]
    acting = _RULE.format(name="large", when="result.y[0] > 10.0", outcome="decline", reason="LARGE") + _ACTING
    return _HEAD + "".join(rules) + acting + _TAIL


def write_repository(folder: Path) -> Path:
    """Write the package, and the same without a policy, into `folder`; returns it, a repository."""
    from onward.package.assembly import assemble
    from onward.testing import tiny_package

    package = tiny_package(folder / NAME / "1.0.0", lock=False)
    (package / "policy.toml").write_text(policy_text(), "utf-8")
    assemble(package)
    tiny_package(folder / UNDECIDED / "1.0.0", name=UNDECIDED)
    return folder


def request(number: int) -> dict[str, Any]:
    """The input of one of the requests; every sixteenth acts."""
    chance = random.Random(number)
    acts = number % (BODIES // ACTING) == BODIES // ACTING - 1
    values = [round(chance.random(), 3), round(chance.uniform(1, 400), 2), round(chance.random(), 3)]
    return {"x": [10.0 if acts else values[0], *values[1:]]}


def write_bodies(folder: Path, *, all_act: bool = False) -> list[bytes]:
    """Write the requests as the load generator reads them; returns them. `all_act`: each comes to the action."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [request(number) for number in range(BODIES)]
    if all_act:
        inputs = [{"x": [10.0, *one["x"][1:]]} for one in inputs]
    bodies = [json.dumps(one).encode() for one in inputs]
    for index, body in enumerate(bodies):
        (folder / f"body-{index}").write_bytes(body)
    (folder / "headers.txt").write_text("Content-Type: application/json\n", "utf-8")
    return bodies


def write_actions(file: Path, target_port: int) -> Path:
    """Write where the action goes: a web hook on this machine."""
    url = f"http://127.0.0.1:{target_port}/{ACTION}"
    file.write_text(
        f'format = 1\n[[target]]\naction = "{ACTION}"\npackages = ["{NAME}"]\nkind = "webhook"\nurl = "{url}"\n'
        "allow_private = true\ntimeout_s = 5\nconcurrency = 8\n",
        "utf-8",
    )
    return file
