"""What is known of the entities that a request is about, read before the model is asked.

What the cache holds is there at once; what the store has to be asked for is read on other threads, and the request
goes on after that. Lives on the event loop. Knows exchanges and profiles; not the model, nor what is decided.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeAlias

from onward.errors import OnwardError
from onward.prepare.profile import Features, Profile
from onward.runners.serve.caller import caller_of
from onward.runners.serve.exchange import Exchange
from onward.store.profiles import Profiles
from onward.telemetry import ModelMetrics
from onward.types import Item

Then: TypeAlias = Callable[[Sequence[Item]], None]
"""Goes on with the items, what they leave out filled in. May raise."""


class ProfileSource(Protocol):
    """Where profiles come from: `onward.runners.serve.decisions.Decisions`."""

    @property
    def profiles(self) -> Profiles:
        """The profiles of the server's store. Raises `StoreUnavailable`."""
        ...

    @property
    def threads(self) -> Executor:
        """Where the store is asked."""
        ...


class Entities:
    """The entities of one served version's items."""

    def __init__(self, features: Features, source: ProfileSource, metrics: ModelMetrics) -> None:
        self._features = features
        self._source = source
        self._metrics = metrics

    def look_up(self, exchange: Exchange, items: Sequence[Item], then: Then) -> None:
        """Read each item's profile and go on with the items; what is decided later sees the profiles, too.

        Raises `InputError` for an entity that is none, or `StoreUnavailable`; what fails later fails the exchange.
        """
        tenant = caller_of(exchange.headers).tenant
        profiles, features, as_of_s = self._source.profiles, self._features, time.time()
        entities = [features.entity(item) for item in items]
        cached = [profiles.cached(tenant, entity, features, as_of_s=as_of_s) for entity in entities]
        known = [profile for profile in cached if profile is not None]
        if len(known) == len(items):
            self._go_on(exchange, items, known, then)
            return

        def read() -> list[Profile]:
            return [
                profiles.read(tenant, entity, features, as_of_s=as_of_s) if profile is None else profile
                for entity, profile in zip(entities, cached, strict=True)
            ]

        def done(future: asyncio.Future[list[Profile]]) -> None:
            if exchange.disconnected:
                self._metrics.drop("cancelled")
                return
            try:
                self._go_on(exchange, items, future.result(), then)
            except OnwardError as error:
                self._metrics.fail(error.code)
                exchange.fail(error)
            except Exception as error:  # nobody else would answer
                exchange.crash(error)

        asyncio.get_running_loop().run_in_executor(self._source.threads, read).add_done_callback(done)

    def _go_on(self, exchange: Exchange, items: Sequence[Item], profiles: Sequence[Profile], then: Then) -> None:
        if exchange.undecided is not None:
            exchange.undecided.profiles = profiles
        then([self._features.fill(item, profile) for item, profile in zip(items, profiles, strict=True)])
