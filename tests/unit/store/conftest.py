"""The stores that the contract is tested on: a new kind of store adds itself here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from onward.store.memory import MemoryStore
from onward.store.store import Store

STORES: dict[str, Callable[[], Store]] = {"memory": MemoryStore}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store of each kind."""
    opened = STORES[request.param]()
    yield opened
    opened.close()
