"""An installation as an operator finds it: a packed package with a policy, a SQLite store, keys, and decisions made."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onward.act.desk import Case, Desk, Recorded, Ruling
from onward.act.targets import load_targets
from onward.decide.policy import Facts
from onward.decide.rules import load_policy
from onward.package.package import open_package
from onward.runners.installation import open_keys
from onward.store.sql import open_store
from onward.store.writer import Writer
from tests import packages

POLICY = """format = 1
[policy]
version = "1"
default  = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
[costs]
probability = "result.probability"
[costs.outcomes]
approve = { positive = 20.0, negative = 0.0 }
review  = { positive = 3.0, negative = 3.0 }
decline = { positive = 0.0, negative = 8.0 }
[[rule]]
name = "early"
when = "cost.best == 'decline' && now < timestamp('2001-01-01T00:00:00Z')"
outcome = "decline"
reasons = ["COST", "EARLY"]
arguments = { amount = "input.Amount" }
[[rule.action]]
name = "hold"
arguments = { card = "input.card", amount = "input.Amount" }
[[rule]]
name = "cheapest"
when = "cost.best != 'approve'"
outcome = "review"
reasons = ["COST"]
arguments = { expected = "cost.review", ratio = "input.Amount / 7.0" }
[[action]]
name = "hold"
approval = "arguments.amount > 500.0"
[action.arguments]
card = { type = "string", max_length = 40, private = true }
amount = { type = "number", minimum = 0, maximum = 10000 }
[[test]]
name = "a sure fraud of long ago is held"
result = { probability = 0.99 }
input = { Amount = 90.0, card = "c1" }
now = 1999-01-01T00:00:00Z
expect = { outcome = "decline", actions = [{ name = "hold", arguments = { card = "c1" } }] }
"""
MORE = """[[input]]
name = "card"
datatype = "BYTES"
required = false
private = true
[profile]
entity = "card"
"""


def onward(
    *arguments: str | Path, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, without the tester's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ONWARD_")}
    return subprocess.run([sys.executable, "-m", "onward", *map(str, arguments)], cwd=cwd, capture_output=True,
                          text=True, timeout=60, env=inherited | (environment or {}))  # fmt: skip


def write_package(folder: Path, *, version: str = "1.0.0", policy: str = POLICY) -> Path:
    """`Amount` → `probability`, a thousandth of it, and a policy over both."""
    graph = packages.graph(
        [helper.make_node("Mul", ["Amount", "share"], ["probability"])],
        [packages.value("Amount", TensorProto.DOUBLE, ["n"])],
        [packages.value("probability", TensorProto.DOUBLE, ["n"])],
        {"share": np.array(0.001, np.float64)},
    )
    fields = [
        packages.field_toml("input", "Amount", "FP64", ()),
        packages.field_toml("output", "probability", "FP64", ()),
    ]
    text = packages.manifest("fraud", fields, version=version, more=MORE)
    return packages.write(folder, text, {"model.onnx": graph}, files={"policy.toml": policy})


class Office:
    """A folder with `var/repository/fraud/1.0.0`, `var/onward.key`, `actions.toml` and, without `url`, the store."""

    def __init__(self, folder: Path, targets: str = "format = 1\n", *, url: str = "") -> None:
        self.folder = folder
        self.package = write_package(folder / "var" / "repository" / "fraud" / "1.0.0")
        (folder / "actions.toml").write_text(targets, "utf-8")
        self.url = url or f"sqlite:///{folder / 'var' / 'onward.db'}"

    def decide(self, cases: list[Case]) -> list[Recorded]:
        """Record decisions, each in a request of its own, as the server does."""
        opened = open_package(self.package)
        rules = load_policy(opened.folder, opened.manifest)
        assert rules is not None
        ruling = Ruling(package=opened.id, rules=rules, private=frozenset({"card"}))
        store = open_store(self.url)
        writer = Writer(store)
        try:
            keys = open_keys(self.url, self.folder / "var" / "onward.key")
            desk = Desk(writer, keys, load_targets(self.folder / "actions.toml"))
            waiting = [desk.record(ruling, [case], tenant="default") for case in cases]
            return [recorded for future in waiting for recorded in future.result(30)]
        finally:
            writer.close()
            store.close()

    def onward(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command here, on this store."""
        return onward(*arguments, cwd=self.folder, environment={"ONWARD_STORE": self.url} | environment)


def case(amount: float, card: str = "c1", *, now_s: float = 0.0, **more: Any) -> Case:
    """One transaction that is to be decided on."""
    given: dict[str, Any] = {"answer": {"probability": amount / 1000}, "now_s": now_s}
    return Case(facts=Facts(**given | {"input": {"Amount": amount, "card": card}} | more), entity=card)


def random_cases(count: int, seed: int = 5) -> list[Case]:
    """Transactions of every kind, some without a model's answer, some of cards with a past."""
    rng = random.Random(seed)
    cases = []
    for _ in range(count):
        failed = rng.random() < 0.1
        cases.append(
            case(
                rng.uniform(0, 1000), f"c{rng.randint(0, 20)}", now_s=rng.uniform(0, 2e9),
                profile={"spent_1h": rng.uniform(0, 1e6)} if rng.random() < 0.3 else {},
                failure="DEADLINE_EXCEEDED" if failed else "", **({"answer": None} if failed else {}),
            )
        )  # fmt: skip
    return cases
