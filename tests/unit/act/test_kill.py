"""The kill switch: which names it takes."""

from __future__ import annotations

import pytest

from onward.act import kill
from onward.errors import InputError
from onward.store.memory import MemoryStore


@pytest.mark.parametrize("where", [{"tenant": "a b"}, {"tenant": "acme/"}, {"action": "hold,refund"}, {"action": "é"}])
def test_a_switch_for_what_nothing_can_be_called_is_refused_and_not_written(where: dict[str, str]) -> None:
    store = MemoryStore()
    with store.transaction() as tx, pytest.raises(InputError, match="names no"):
        kill.turn(tx, on=True, by="ada", at_s=0.0, **where)
    with store.snapshot() as reader:
        assert not reader.switches() and reader.last_audit() is None


@pytest.mark.parametrize("where", [{}, {"tenant": "acme-eu.1"}, {"action": "hold_card"}])
def test_a_switch_covers_what_it_names(where: dict[str, str]) -> None:
    store = MemoryStore()
    with store.transaction() as tx:
        kill.turn(tx, on=True, by="ada", at_s=0.0, **where)
    with store.snapshot() as reader:
        stopped = kill.stopped(reader)
    assert stopped.covers(tenant=where.get("tenant", "acme-eu.1"), action=where.get("action", "hold_card"))
    assert stopped.covers(tenant="b", action="c") is (not where)
