"""The fraud example as it happens: held-out payments through a real server to a real payment service."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gallery.builds import is_built
from gallery.fraud.stream import money
from gallery.fraud.stream.__main__ import compare
from gallery.fraud.stream.installation import Installation
from gallery.fraud.stream.money import Known
from gallery.fraud.stream.replay import Decided, Replay
from gallery.fraud.stream.simulation import Payment, simulate
from onward.decide.audit import HiddenDecision, read_decision
from onward.decide.rules import load_policy
from onward.package.manifest import load_manifest
from onward.prepare.profile import Features
from onward.runners.installation import open_keys, open_store

REPOSITORY = Path(__file__).parents[2] / "var" / "repository"
PACKAGE = REPOSITORY / "fraud" / "1.0.0"
pytestmark = pytest.mark.weights


@dataclass(frozen=True)
class Streamed:
    payments: list[Payment]
    decided: list[Decided]
    effects: list[dict[str, Any]]
    holds: list[dict[str, Any]]
    cases: list[dict[str, Any]]
    profiles: dict[str, dict[str, Any]]
    repeated: dict[str, Any]

    def by_row(self) -> list[Decided]:
        return sorted(self.decided, key=lambda one: one.payment.row)


@pytest.fixture(scope="module")
def streamed() -> Iterator[Streamed]:
    """All payments of the cards that the simulation has stolen, some first ones, and large ones."""
    if not is_built("fraud", REPOSITORY):
        pytest.skip("fraud is not built: make gallery")
    from gallery.fraud.build import held_out_transactions

    every = simulate(held_out_transactions())
    stolen = {payment.card for payment in every if payment.fraud}
    payments = [payment for payment in every if payment.card in stolen or payment.row < 200 or payment.amount > 3000]
    decided: list[Decided] = []
    with Installation(PACKAGE) as installation:
        Replay(installation.url, run="test").run(payments, speed=0.0, tell=decided.append)
        installation.settle(sum(len(one.actions) for one in decided))
        again = next(one for one in decided if one.actions)
        repeated = _again(installation.url, again)
        found = {name: installation.payments.get(f"/{name}") for name in ("effects", "holds", "cases")}
        profiles = _profiles(installation)
    assert repeated["decision"]["decision_id"] == again.decision_id
    yield Streamed(payments=payments, decided=decided, profiles=profiles, repeated=repeated, **found)


def _again(url: str, one: Decided) -> dict[str, Any]:
    body = {**one.payment.fields, "card": one.entity, "merchant": one.payment.merchant}
    headers = {"content-type": "application/json", "idempotency-key": f"test-{one.payment.row}"}
    request = urllib.request.Request(f"{url}/models/fraud", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _profiles(installation: Installation) -> dict[str, dict[str, Any]]:
    """What each decision saw of its card, by the audit log."""
    url, found = f"sqlite:///{installation.folder / 'onward.db'}", {}
    keys = open_keys(url, installation.folder / "key")
    with open_store(url) as store, store.snapshot() as reader:
        after = 0
        while entries := reader.audit_entries(after=after, limit=500):
            after = entries[-1].sequence
            for entry in entries:
                if entry.draft.kind == "decision":
                    decision = read_decision(entry, keys, reader)
                    assert not isinstance(decision, HiddenDecision)
                    found[decision.decision_id] = dict(decision.facts.profile)
    return found


def test_every_hold_and_every_case_happens_exactly_once(streamed: Streamed) -> None:
    wanted = Counter((one.decision_id, name) for one in streamed.decided for name in one.actions)
    happened = Counter((effect["decision"], effect["name"]) for effect in streamed.effects)
    assert happened == wanted and set(wanted.values()) == {1}
    names = Counter(name for _, name in wanted)
    assert names["hold"] == len(streamed.holds) > 10 and names["open_case"] == len(streamed.cases) > 10


def test_declines_hold_unless_the_card_is_held_and_reviews_open_a_case(streamed: Streamed) -> None:
    for one in streamed.decided:
        wanted = {"approve": (), "review": ("open_case",), "decline": ("hold",)}[one.outcome]
        assert one.actions == (() if one.rule == "held-card-at-risk" else wanted), one
    held = Counter(row["card"].partition(".")[0] for row in streamed.holds)
    assert set(held.values()) == {1}  # a held card is not held again


def test_each_decision_saw_what_had_happened_to_its_card(streamed: Streamed) -> None:
    """Against a recomputation from the payments themselves, in the transactions' whole seconds."""
    before: dict[str, list[Decided]] = {}
    for one in streamed.by_row():
        earlier, saw = before.setdefault(one.payment.card, []), streamed.profiles[one.decision_id]
        age = [int(one.payment.time_s - each.payment.time_s) for each in earlier]
        for name, window_s in (("1m", 60), ("1h", 3600), ("1d", 86_400)):
            amounts = [each.payment.amount for each, s in zip(earlier, age, strict=True) if s <= window_s]
            assert saw[f"count_{name}"] == len(amounts)
            assert saw[f"spent_{name}"] == pytest.approx(sum(amounts))
        assert saw["merchants_1d"] == len({each.payment.merchant for each in earlier})
        assert sorted(saw["last_merchants"]) == sorted(each.payment.merchant for each in earlier[-50:])
        assert saw["holds_1d"] == sum("hold" in each.actions for each in earlier)
        if earlier:
            assert abs(saw["since_last"] - age[-1]) <= 0.5
        else:
            assert "since_last" not in saw
        earlier.append(one)
    assert max(len(each) for each in before.values()) > 10


def test_the_report_is_what_the_decisions_cost(streamed: Streamed) -> None:
    manifest = load_manifest(PACKAGE)
    rules, features = load_policy(PACKAGE, manifest), Features.of(manifest)
    assert rules is not None and features is not None
    nothing, threshold, alone, served = compare(streamed.decided, rules, features)
    frauds = [one for one in streamed.decided if one.payment.fraud]
    assert len(frauds) == nothing.frauds == 108
    assert nothing.cost == pytest.approx(sum(one.payment.amount + 25 for one in frauds))
    missed = sum(one.payment.amount + 25 for one in frauds if one.probability < 0.5)
    wrong = sum(not one.payment.fraud for one in streamed.decided if one.probability >= 0.5)
    assert threshold.cost == pytest.approx(missed + 30 * wrong)
    lost = sum(one.payment.amount + 25 for one in frauds if one.outcome == "approve")
    honest = sum(not one.payment.fraud for one in streamed.decided if one.outcome == "decline")
    reviews = sum(one.outcome == "review" for one in streamed.decided)
    assert served.cost == pytest.approx(lost + 30 * honest + 5 * reviews)
    assert (served.reviewed, served.declined_honest) == (reviews, honest)
    assert served.stopped == sum(one.outcome != "approve" for one in frauds) > alone.stopped > 70


def test_the_server_decides_as_the_policy_does_on_a_recomputed_past(streamed: Streamed) -> None:
    manifest = load_manifest(PACKAGE)
    rules, features = load_policy(PACKAGE, manifest), Features.of(manifest)
    assert rules is not None and features is not None
    ordered = streamed.by_row()
    known = [Known(payment=one.payment, probability=one.probability, unusual=one.unusual) for one in ordered]
    assert money.with_past(rules, features, known) == [one.outcome for one in ordered]
