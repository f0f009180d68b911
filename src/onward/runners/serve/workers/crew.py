"""The processes of a server's workers: started, heard, replaced where they end, and told what to accept.

A worker that dies is replaced at once; one that dies again and again, ever later. Meanwhile another one accepts the
connections of its slot. Knows processes and frames; not what is served, nor who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from onward.errors import OnwardError, Unavailable
from onward.execute.cores import VARIABLE as CORES
from onward.execute.cores import cores
from onward.runners.serve.workers.frames import Begin, Listen, Message, Pulse, Readiness, State, Stop
from onward.runners.serve.workers.link import Link

_log = logging.getLogger("onward.serve")
_MODULE = "onward.runners.serve.workers.worker"
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 15.0
_DOUBLINGS = 6  # to the longest
_STEADY_S = 30.0  # who has lived as long has not died "again"
_SILENT_S = 60.0  # how long a worker may say nothing before it counts as stuck
_LOOK_S = 1.0
_MOST_FALSE_STARTS = 3
Handler: TypeAlias = "Callable[[Member, Message], Awaitable[Message | None]]"


class Member:
    """One worker's process. `number` is its own alone; its slot's next one has another."""

    def __init__(self, slot: int, number: int, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self.slot = slot
        self.number = number
        self.process = process
        self.link: Link | None = None
        self.reading: asyncio.Task[None] | None = None
        self.state = State(looked=False, complete=False)
        self.spoke = False
        self.started_s = self.heard_s = time.monotonic()
        self.listens: tuple[int, ...] = ()
        self._lifeline = lifeline

    @property
    def is_fit(self) -> bool:
        """Whether it serves all that it should."""
        return self.is_up and self.state.complete

    @property
    def is_up(self) -> bool:
        """Whether it can be spoken with, and is not about to end."""
        return self.link is not None and self.link.is_open and not self.state.stopping

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def leave(self) -> None:
        """It has ended."""
        os.close(self._lifeline)
        if self.link is not None:
            self.link.close()


class Crew:
    """The workers of one server, one a slot. `changed` is called when one of them is another than before."""

    def __init__(
        self, sockets: Sequence[Sequence[socket.socket]], turns: int, *, shared: bool, begin: Callable[[int], Begin],
        handle: Handler, changed: Callable[[], None], ended: Callable[[Member], None],
    ) -> None:  # fmt: skip
        """`turns` is a descriptor that they inherit besides the sockets. `begin` says what a slot's worker is told
        first, `ended` hears of each that is no more.

        `shared`: the slots have one socket among them, so that nobody need take another's place.
        """
        self.size = len(sockets)
        self.members: list[Member | None] = [None] * self.size
        self.replaced = 0
        self._sockets = sockets
        self._turns = turns
        self._shared = shared
        self._begin = begin
        self._handle = handle
        self._changed = changed
        self._ended = ended
        self._numbers = itertools.count(1)
        self._ready = False
        self._was_ready = False
        self._stopping = False
        self._told_to_stop = asyncio.Event()
        self._ever_spoke = False
        self._cores = max(cores() / self.size, 0.01)

    @property
    def ready(self) -> bool:
        """Every worker serves all that it should; once that has been so, at least half of them do."""
        return self._ready

    def up(self) -> list[Member]:
        """The workers that can be spoken with, by their slots."""
        return [member for member in self.members if member is not None and member.is_up]

    async def run(self) -> None:
        """Keep every slot occupied until `stop`. Raises `Unavailable` where no worker ever gets as far as to speak."""
        try:
            async with asyncio.TaskGroup() as group:
                for slot in range(self.size):
                    group.create_task(self._keep(slot))
                group.create_task(self._watch())
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _keep(self, slot: int) -> None:
        failures = 0
        while not self._stopping:
            begun_s = time.monotonic()
            try:
                how = await self._last_of(await self._start(slot))
                at_once = True
            except OSError as error:  # no memory, process or file is left at this moment; at another one there may be
                how, at_once = f"could not be started: {error}", False
            if self._stopping:
                return
            failures = 1 if time.monotonic() - begun_s >= _STEADY_S else failures + 1
            if failures >= _MOST_FALSE_STARTS and not self._ever_spoke:
                raise Unavailable("the workers end before they serve; the log says why")
            delay_s = min(_FIRST_DELAY_S * 2 ** min(max(failures - 2, 0), _DOUBLINGS), _LONGEST_DELAY_S)
            if failures == 1 and at_once:
                delay_s = 0.0
            _log.error("worker %d %s; another one starts in %.2g s", slot, how, delay_s)
            await self._pause(delay_s)

    async def _last_of(self, member: Member) -> str:
        """Wait for the end of a worker; how it ended."""
        code = await member.process.wait()
        if member.reading is not None:
            await asyncio.wait([member.reading], timeout=_LOOK_S)  # what it said last counts
        self._ever_spoke = self._ever_spoke or member.spoke
        self.members[member.slot] = None
        member.leave()
        self._ended(member)
        self.replaced += not self._stopping
        self.arrange()
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
        return f"(pid {member.process.pid}) has ended {ended}"

    async def _pause(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told_to_stop.wait(), delay_s)

    async def _start(self, slot: int) -> Member:
        """Start a worker, and tell it to begin. Raises `OSError` where there is nothing to start one with."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            near, far = socket.socketpair()
            ours.callback(near.close)
            theirs.callback(far.close)
            lifeline_read, lifeline_write = os.pipe()
            ours.callback(os.close, lifeline_write)
            theirs.callback(os.close, lifeline_read)
            listening = [one.fileno() for of_slot in self._sockets for one in of_slot]
            descriptors = {far.fileno(), lifeline_read, self._turns, *listening}
            process = await asyncio.create_subprocess_exec(
                # -P: the folder that the server was started in is no place for modules
                sys.executable, "-P", "-m", _MODULE, str(far.fileno()), str(lifeline_read),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=tuple(descriptors),
                env={**os.environ, CORES: f"{self._cores:g}"},
            )  # fmt: skip
            member = Member(slot, next(self._numbers), process, lifeline_write)
            member.link = await Link.over(near, lambda message: self._hear(member, message))
            ours.pop_all()
        self.members[slot] = member
        if self._stopping:  # told to stop meanwhile: this one has nothing to drain, and its sockets may be closed
            member.kill()
        else:
            member.link.tell(self._begin(slot))  # not before: what is desired may change while a process starts
            member.link.tell(Readiness(ready=self._ready))
        member.reading = asyncio.create_task(member.link.run())
        member.reading.add_done_callback(lambda _: self.arrange())
        self.arrange()
        return member

    async def _hear(self, member: Member, message: Message) -> Message | None:
        member.spoke = True
        member.heard_s = time.monotonic()
        state = message.state if isinstance(message, Pulse) else message
        if isinstance(state, State):
            self.told(member, state)
        return await self._handle(member, message)

    def told(self, member: Member, state: State) -> None:
        """A worker has said what it serves."""
        if state != member.state:
            member.state = state
            self.arrange()

    async def _watch(self) -> None:
        """End who says nothing any more, or hung up and stays."""
        while not self._stopping or any(self.members):
            await asyncio.sleep(_LOOK_S)
            for member in self.members:
                if member is not None and time.monotonic() - member.heard_s > _SILENT_S:
                    _log.error("worker %d (pid %d) has been silent for %.0f s and is ended",
                               member.slot, member.process.pid, _SILENT_S)  # fmt: skip
                    member.kill()

    def arrange(self) -> None:
        """Decide who accepts whose connections, and whether the server is ready; tell who is concerned."""
        fit = [member for member in self.up() if member.is_fit]
        enough = -(-self.size // 2) if self._was_ready else self.size
        ready = len(fit) >= enough and not self._stopping
        self._was_ready = self._was_ready or ready
        if ready != self._ready:
            self._ready = ready
            for member in self.up():
                assert member.link is not None
                member.link.tell(Readiness(ready=ready))
        for member, slots in self._places(fit).items():
            if slots != member.listens and member.link is not None:
                member.listens = slots
                member.link.tell(Listen(slots=slots))
        self._changed()

    def _places(self, fit: Sequence[Member]) -> dict[Member, tuple[int, ...]]:
        """The slots of each worker: its own, and those of who cannot accept now, so that nobody waits there.

        Where no worker is fit, those accept that are not about to become so; at the start all do, to say that they are
        not ready. Once the server was ready, callers wait for a new worker rather than be told that there is no model.
        """
        places: dict[Member, list[int]] = {member: [] for member in self.up()}
        for slot, owner in enumerate(self.members):
            alone = not fit and not self._shared
            if owner is not None and (owner.is_fit or (alone and owner.is_up and self._may_accept(owner))):
                places[owner].append(slot)
            elif fit and not self._shared:
                places[min(fit, key=lambda member: len(places[member]))].append(slot)
        return {member: tuple(slots) for member, slots in places.items()}

    def _may_accept(self, member: Member) -> bool:
        return member.state.looked or not self._was_ready

    async def ask(self, member: Member, message: Message, *, timeout_s: float | None = None) -> Message:
        """Ask one worker. Raises `OnwardError`."""
        if member.link is None:
            raise Unavailable("the worker is not there")
        answer = await member.link.ask(message, timeout_s=timeout_s)
        member.heard_s = time.monotonic()
        if isinstance(answer, State):
            self.told(member, answer)
        return answer

    async def ask_all(self, message: Message, *, timeout_s: float) -> list[tuple[Member, Message]]:
        """Ask all at once; those that answer."""
        members = self.up()
        asked = (self.ask(member, message, timeout_s=timeout_s) for member in members)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, OnwardError):
                raise answer
        pairs = zip(members, answers, strict=True)
        return [(member, answer) for member, answer in pairs if not isinstance(answer, BaseException)]

    def stop(self, grace_s: float) -> None:
        """Have every worker drain, and replace none any more; `run` ends with the last of them."""
        self._no_more()
        for member in self.members:
            if member is not None and member.link is not None:
                member.link.tell(Stop(grace_s=grace_s, for_good=True))
        self.arrange()

    def kill(self) -> None:
        """End all of them at once."""
        self._no_more()
        for member in self.members:
            if member is not None:
                member.kill()

    def _no_more(self) -> None:
        self._stopping = True
        self._told_to_stop.set()
