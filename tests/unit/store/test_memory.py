"""What is special to the store in memory."""

from __future__ import annotations

import pytest

from onward.store.memory import MemoryStore
from onward.store.store import Store


def test_it_has_the_stores_interface() -> None:
    store: Store = MemoryStore()
    store.close()
    store.close()


def test_a_transaction_cannot_be_used_after_its_end() -> None:
    with MemoryStore().transaction() as transaction:
        pass
    with pytest.raises(RuntimeError, match="has ended"):
        transaction.last_audit()


def test_a_nested_transaction_is_an_error_and_no_deadlock() -> None:
    store = MemoryStore()
    with store.transaction(), pytest.raises(RuntimeError, match="nested"), store.transaction():
        pass
    with store.transaction():
        pass
