"""What a server needs for packages with a policy: imported and opened with the first of them, and never without one.

Knows when; `onward.runners.serve.decisions` knows what.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onward.errors import MissingExtra, NotFound
from onward.pipeline import Pipeline
from onward.telemetry import Backlog, DecisionMetrics, ModelMetrics

if TYPE_CHECKING:
    from onward.runners.serve.decider import Decider
    from onward.runners.serve.decisions import Decisions


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


class Policies:
    """Gives every served version with a policy its decider. Made on the event loop."""

    def __init__(self, options: DecisionOptions) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._opening = threading.Lock()
        self._decisions: Decisions | None = None

    @property
    def decisions(self) -> Decisions:
        """The server's decisions. Raises `NotFound` where no package with a policy has been served yet."""
        if self._decisions is None:
            raise NotFound("no package with a policy is served")
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
            raise MissingExtra(f"the package has a policy, which needs {error.name}", expected=expected) from None
        return Decisions(self._options, self._loop)

    def decider(self, pipeline: Pipeline, metrics: ModelMetrics) -> Decider:
        """The decider of a served version; `open` comes first."""
        return self.decisions.decider(pipeline, metrics)

    def metrics(self) -> Iterable[DecisionMetrics]:
        """What every version has decided since the start."""
        return () if self._decisions is None else self._decisions.metrics()

    def backlog(self) -> Backlog | None:
        """The outbox as it was last looked at; None where there is none."""
        return None if self._decisions is None else self._decisions.backlog()

    async def refresh_backlog(self) -> None:
        """Look at the outbox, for a scrape."""
        if self._decisions is not None:
            await self._decisions.refresh_backlog()

    async def close(self) -> None:
        """Finish the commits under way and stop the relay."""
        if self._decisions is not None:
            await self._decisions.close()
