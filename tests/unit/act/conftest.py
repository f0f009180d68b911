"""What the tests of `act` share: a receiver of webhooks, and an outbox with actions in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.act.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()
