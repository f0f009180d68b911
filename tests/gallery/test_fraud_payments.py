"""The payment service and the simulation beside `fraud`, without a server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from gallery.fraud.payments.app import payments
from gallery.fraud.payments.ledger import Ledger, Refused
from gallery.fraud.stream.money import Known, by_threshold, cost, tally
from gallery.fraud.stream.past import Past
from gallery.fraud.stream.simulation import Payment, simulate
from gallery.fraud.train import Transactions

SECRET = "for this test"
HOLD = {"card": "c1", "amount": 12.5, "probability": 0.97}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "payments.sqlite")
    yield opened
    opened.close()


def payment(time_s: float, **settings: Any) -> Payment:
    usual: dict[str, Any] = {"row": 0, "card": "c1", "merchant": "m1", "amount": 10.0, "fraud": False, "fields": {}}
    return Payment(time_s=time_s, **(usual | settings))


def rows(count: int = 4000, frauds: int = 60) -> Transactions:
    random = np.random.default_rng(0)
    features = random.random((count, 30)).astype(np.float32)
    features[:, 0] = np.sort(random.integers(0, 10_000, count))
    labels = np.zeros(count, np.int64)
    labels[random.choice(count, frauds, replace=False)] = 1
    return Transactions(features=features, labels=labels)


def signed(key: str, body: bytes, secret: str = SECRET) -> dict[str, str]:
    stamp = str(int(time.time()))
    digest = hmac.new(secret.encode(), f"{key}.{stamp}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": key, "idempotency-key": key, "webhook-timestamp": stamp, "webhook-signature": signature}


def test_an_effect_happens_once_for_its_key(ledger: Ledger) -> None:
    first = ledger.effect("k1", "hold", HOLD, decision="d1")
    assert ledger.effect("k1", "hold", HOLD, decision="d1") == first == ledger.receipt("k1")
    assert len(ledger.rows("SELECT * FROM holds")) == 1
    with pytest.raises(Refused, match="something else"):
        ledger.effect("k1", "hold", HOLD | {"card": "c2"})
    with pytest.raises(KeyError):
        ledger.effect("k2", "hold", {"card": "c2"})
    assert ledger.receipt("k2") is None and len(ledger.rows("SELECT * FROM holds")) == 1


def test_only_what_is_signed_happens(ledger: Ledger) -> None:
    body = json.dumps({"data": {"name": "hold", "arguments": HOLD, "decision_id": "d1"}}).encode()
    with TestClient(payments(ledger, SECRET)) as client:
        assert client.get("/effects/k1").status_code == 404
        assert client.post("/actions/hold", content=body, headers=signed("k1", body, "another")).status_code == 401
        changed = body.replace(b"c1", b"c2")
        assert client.post("/actions/hold", content=changed, headers=signed("k1", body)).status_code == 401
        assert client.post("/actions/open_case", content=body, headers=signed("k1", body)).status_code == 400
        assert client.get("/effects").json() == []
        done = client.post("/actions/hold", content=body, headers=signed("k1", body))
        assert done.status_code == 200 and client.get("/effects/k1").json() == done.json()
        assert [row["card"] for row in client.get("/holds", params={"card": "c1"}).json()] == ["c1"]


def test_the_simulation_repeats_and_changes_nothing_that_was_published() -> None:
    made = rows()
    once, again = simulate(made), simulate(made)
    assert once == again != simulate(made, seed=8)
    assert [one.time_s for one in once] == made.features[:, 0].tolist()
    assert [one.fraud for one in once] == (made.labels == 1).tolist()


def test_frauds_share_cards_only_where_the_simulation_says_so() -> None:
    bursts, control = simulate(rows()), simulate(rows(), bursts=False)
    assert len({one.card for one in bursts if one.fraud}) < 30
    assert len({one.card for one in control if one.fraud}) > 50
    honest = [(a.card, a.merchant) for a in bursts if not a.fraud]
    assert len({card for card, _ in honest}) > 1000


def test_the_past_of_a_card_is_as_long_ago_as_it_was() -> None:
    past = Past()
    past.note(payment(100.0), held=False)
    past.note(payment(160.0, merchant="m2"), held=True)
    past.note(payment(170.0, card="c2"), held=False)
    now = payment(160.0 + 3600.0)
    assert past.entity(now) == "c1.2" and past.entity(payment(0.0, card="c3")) == "c3.0"
    events = past.events(now, 1e9)
    assert [(event["kind"], 1e9 - event["at"]) for event in events] == [
        ("payment", 3659.5), ("payment", 3599.5), ("hold", 3599.5),
    ]  # fmt: skip
    assert past.events(payment(160.0), 1e9)[-1]["at"] < 1e9  # of the same second, and still before
    assert past.events(payment(100.0 + 86_401.0), 1e9)[0]["data"] == {"amount": 10.0, "merchant": "m2"}


def test_costs_are_those_of_the_card() -> None:
    fraud, honest = payment(0.0, fraud=True, amount=100.0), payment(0.0)
    assert [cost(fraud, outcome) for outcome in ("approve", "review", "decline")] == [125.0, 5.0, 0.0]
    assert [cost(honest, outcome) for outcome in ("approve", "review", "decline")] == [0.0, 5.0, 30.0]
    found = tally("x", [(fraud, "review"), (honest, "decline"), (fraud, "approve")])
    assert (found.cost, found.frauds, found.stopped, found.reviewed, found.declined_honest) == (160.0, 2, 1, 1, 1)
    assert by_threshold(Known(payment=fraud, probability=0.5, unusual=False)) == "decline"
