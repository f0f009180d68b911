"""The desired state: which models are served, and how the workers get there, one after the other.

A new version is loaded by one worker first. Where it does not load, the others leave it alone and all stay with the
old one; else they follow, one at a time, so that loading takes one worker's core at most. A worker that cannot load
what others serve is replaced. Knows frames; not how a worker does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from onward.errors import OnwardError, Unavailable
from onward.runners.serve.workers.crew import Crew, Member
from onward.runners.serve.workers.frames import Desired, Load, Message, Scan, Stop, Unload
from onward.runners.serve.workers.link import Declined

_log = logging.getLogger("onward.serve")


class Rollout:
    """Brings all workers to the same state. Commands and scans take turns."""

    def __init__(self) -> None:
        self._unloaded: set[str] = set()
        self._turn = asyncio.Lock()

    def desired(self, crew: Crew, member: Member | None = None) -> Desired:
        """What is to be served, and what one worker (or a new one) is to leave alone: versions that failed in others
        and that nobody serves. What it failed with itself, it tries again on its own when the files change."""
        others = [one for one in crew.up() if one is not member]
        served = {(one.name, one.version) for other in crew.up() for one in other.state.served}
        failed = {(one.name, one.version) for other in others for one in other.state.failed}
        own = {(one.name, one.version) for one in member.state.failed} if member is not None else set()
        return Desired(unloaded=tuple(sorted(self._unloaded)), avoided=tuple(sorted(failed - served - own)))

    async def watch(self, crew: Crew, interval_s: float) -> None:
        """Have the repository looked through, again and again."""
        while True:
            await asyncio.sleep(interval_s)
            await self.scan(crew)

    async def scan(self, crew: Crew) -> None:
        """Have each worker look, one after the other."""
        async with self._turn:
            for member in crew.up():
                try:
                    await crew.ask(member, Scan(desired=self.desired(crew, member)))
                except OnwardError as error:  # it has died, most likely; its successor hears it at its start
                    _log.debug("worker %d did not look: %s", member.slot, error)
            self._replace_those_behind(crew)

    def _replace_those_behind(self, crew: Crew) -> None:
        members = crew.up()
        for member in members:
            others = {(one.name, one.version) for other in members if other is not member for one in other.state.served}
            missed = [f"{one.name} {one.version}" for one in member.state.failed if (one.name, one.version) in others]
            if missed and member.link is not None:
                _log.error("worker %d could not load %s, which others serve: another one takes its place",
                           member.slot, ", ".join(missed))  # fmt: skip
                member.link.tell(Stop(grace_s=0.0))

    async def load(self, crew: Crew, name: str) -> None:
        """Serve a model (again); done once all workers do. Raises the error of the first that cannot."""
        async with self._turn:
            self._unloaded.discard(name)
            errors = await self._all(crew, lambda one: Load(name=name, desired=self.desired(crew, one)))
        if errors:
            raise errors[0]

    async def unload(self, crew: Crew, name: str) -> None:
        """Serve a model no longer; done once no worker does. Where the first cannot, nothing changes, and it raises."""
        async with self._turn:
            was = name in self._unloaded
            self._unloaded.add(name)
            command = lambda one: Unload(name=name, desired=self.desired(crew, one))  # noqa: E731
            errors = await self._all(crew, command, only_after_the_first=True)
            if errors and not was:
                self._unloaded.discard(name)
                await self._all(crew, lambda one: Scan(desired=self.desired(crew, one)))
        if errors:
            raise errors[0]

    async def _all(
        self, crew: Crew, command: Callable[[Member], Message], *, only_after_the_first: bool = False
    ) -> list[Declined]:
        """Give each worker its command, one after the other; what was declined. Who dies of it is not waited for.

        `only_after_the_first`: where the first declines, the others are not asked.
        """
        declined: list[Declined] = []
        done = 0
        for member in crew.up():
            try:
                await crew.ask(member, command(member))
                done += 1
            except Declined as error:
                if done == 0 or not only_after_the_first:
                    declined.append(error)
                if done == 0 and only_after_the_first:
                    return declined
            except Unavailable as error:
                _log.warning("worker %d: %s", member.slot, error)
        if not done and not declined:
            raise Unavailable("no worker can be asked yet")
        return declined
