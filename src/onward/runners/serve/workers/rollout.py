"""The desired state: which models are served, and how the workers get there, one after the other.

A new version is loaded by one worker first. Where it does not load, the others leave it alone and all stay with the
old one; else they follow, one at a time, so that loading takes one worker's core at most. A worker that cannot load
what others serve is replaced. Knows frames; not how a worker does it.
"""

from __future__ import annotations

import asyncio
import logging

from onward.errors import OnwardError, Unavailable
from onward.runners.serve.workers.crew import Crew, Member
from onward.runners.serve.workers.frames import Ask, Command, Commanded, Desired, Scan, Stop, Told

_log = logging.getLogger("onward.serve")
_FOLLOW_S = 900.0  # longer than a model takes to load; nobody else has a turn meanwhile


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
        failed = {(one.name, one.version): one.code for other in others for one in other.state.failed}
        own = {(one.name, one.version) for one in member.state.failed} if member is not None else set()
        avoided = ((*key, code) for key, code in failed.items() if key not in served | own)
        return Desired(unloaded=tuple(sorted(self._unloaded)), avoided=tuple(sorted(avoided)))

    async def watch(self, crew: Crew, interval_s: float) -> None:
        """Have the repository looked through, again and again."""
        while True:
            await asyncio.sleep(interval_s)
            await self.scan(crew)

    async def scan(self, crew: Crew) -> None:
        """Have each worker look, one after the other."""
        async with self._turn:
            for member in crew.up():
                await self._follow(crew, member)
            self._replace_those_behind(crew)

    def _replace_those_behind(self, crew: Crew) -> None:
        members = crew.up()
        for member in members:
            others = {(one.name, one.version) for other in members if other is not member for one in other.state.served}
            missed = [f"{one.name} {one.version}" for one in member.state.failed if (one.name, one.version) in others]
            if missed and member.link is not None:
                _log.error("worker %d could not load %s, which others serve: another one takes its place",
                           member.slot, ", ".join(missed))  # fmt: skip
                member.link.tell(Stop(grace_s=0.0, for_good=False))

    async def command(self, crew: Crew, ask: Ask) -> Told:
        """Give one worker a command of the admin port, and bring the others to where it then is: answered once all are.

        Raises `Unavailable` where there is no worker, or it dies of it: then the others go on as they are.
        """
        async with self._turn:
            members = crew.up()
            if not members:
                raise Unavailable("no worker can be asked yet")
            first = next((member for member in members if member.is_fit), members[0])
            done = await crew.ask(first, Command(ask=ask, desired=self.desired(crew, first)), timeout_s=_FOLLOW_S)
            assert isinstance(done, Commanded)
            crew.told(first, done.state)
            self._unloaded = {*done.state.unloaded}
            for member in crew.up():
                if member is not first:
                    await self._follow(crew, member)
            return done.told

    async def _follow(self, crew: Crew, member: Member) -> None:
        try:
            await crew.ask(member, Scan(desired=self.desired(crew, member)), timeout_s=_FOLLOW_S)
        except OnwardError as error:  # it has died, most likely; its successor hears it at its start
            _log.info("worker %d did not look: %s", member.slot, error)
