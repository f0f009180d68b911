"""What a server needs for packages with a policy or a profile: imported and opened with the first, never without one.

Knows when; `onward.runners.serve.decisions` knows what.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onward.errors import MissingExtra, NotFound
from onward.runners.serve.served import ServedModel
from onward.telemetry import Backlog, DecisionMetrics

if TYPE_CHECKING:
    from onward.prepare.profile import Features
    from onward.runners.serve.decisions import Decisions
    from onward.runners.serve.profile_routes import ProfileEndpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Siblings:
    """What the workers of one server do together, so that it does not matter which of them is asked.

    `secret` makes the ids of conversations that their request names. `turn` waits until no other worker is at a
    tenant's conversation, `open_first` until the supervisor has made the store; `wake` tells its relay of work.
    """

    secret: bytes
    turn: Callable[[str, str], AbstractContextManager[None]]
    open_first: Callable[[], None]
    wake: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionOptions:
    """Where decisions are kept, and what their actions may do: without `actions`, nothing.

    `key_file`: the installation key, under which private values are sealed; without it, the store's usual one.
    `relay`: whether this process carries out the actions, too.
    """

    store: str = "sqlite:///var/onward.db"
    actions: Path | None = None
    key_file: Path | None = None
    relay: bool = True
    siblings: Siblings | None = None


class Policies:
    """Gives every served version what decides on its answers and knows its entities. Made on the event loop."""

    def __init__(self, options: DecisionOptions) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._opening = threading.Lock()
        self._decisions: Decisions | None = None

    @property
    def decisions(self) -> Decisions:
        """The server's decisions. Raises `NotFound` where no package that needs a store has been served yet."""
        if self._decisions is None:
            raise NotFound("no package with a policy or a profile is served")
        return self._decisions

    def open(self) -> None:
        """Be ready for decisions; for a loading thread, since it may take its time. Raises `MissingExtra`."""
        with self._opening:
            if self._decisions is None:
                self._decisions = self._made()
        self._decisions.open()

    def _made(self) -> Decisions:
        try:
            from onward.runners.serve.decisions import Decisions
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("", "onward"):
                raise
            expected = "pip install 'onward[decide]'"
            raise MissingExtra(f"policies and profiles need {error.name}", expected=expected) from None
        return Decisions(self._options, self._loop)

    def equip(self, served: ServedModel) -> None:
        """Give a served version what its package needs; `open` came first where that is anything."""
        if served.pipeline.policy is not None:
            talks = served.pipeline.dialogue is not None
            make = self.decisions.talker if talks else self.decisions.decider
            served.decider = make(served.pipeline, served.metrics)
        if served.pipeline.prepare.features is not None:
            served.entities = self.decisions.entities(served.pipeline.prepare.features, served.metrics)

    def profile_endpoints(self, features: Callable[[], Mapping[str, Features]]) -> ProfileEndpoints:
        """The routes' handlers over the store's profiles. Raises `NotFound` or `StoreUnavailable`."""
        from onward.runners.serve.profile_routes import ProfileEndpoints

        return ProfileEndpoints(self.decisions.profiles, features)

    def metrics(self) -> Iterable[DecisionMetrics]:
        """What every version has decided since the start."""
        return () if self._decisions is None else self._decisions.metrics()

    def backlog(self) -> Backlog | None:
        """The outbox as it was last looked at; None where there is none."""
        return None if self._decisions is None else self._decisions.backlog()

    def wake_relay(self) -> None:
        """The outbox may hold something to do."""
        if self._decisions is not None:
            self._decisions.wake_relay()

    async def refresh_backlog(self) -> None:
        """Look at the outbox, for a scrape."""
        if self._decisions is not None:
            await self._decisions.refresh_backlog()

    async def close(self) -> None:
        """Finish the commits under way and stop the relay."""
        if self._decisions is not None:
            await self._decisions.close()
