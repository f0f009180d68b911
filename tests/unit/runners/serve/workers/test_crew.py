"""Who accepts whose connections, and when the server is ready, follows from what the workers say of themselves."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from onward.errors import Unavailable
from onward.runners.serve.workers.crew import Crew, Member
from onward.runners.serve.workers.frames import (
    Ask,
    Command,
    Commanded,
    Desired,
    Failure,
    Listen,
    Message,
    Readiness,
    Scan,
    State,
    Stop,
    Told,
    Version,
)
from onward.runners.serve.workers.rollout import Rollout

FIT = State(looked=True, complete=True)
LOADING = State(looked=False, complete=False)
ASK = Ask(method="POST", path="/v2/repository/models/m/unload", query=b"", headers=(), body=b"")


class Heard:
    """A link that remembers what it was told, and answers as a worker would."""

    def __init__(self) -> None:
        self.is_open = True
        self.told: list[Message] = []
        self.state = FIT
        self.after_command = FIT

    def tell(self, message: Message) -> None:
        self.told.append(message)

    async def ask(self, message: Message, *, timeout_s: float | None = None) -> Message:
        if not self.is_open:
            raise Unavailable("gone")
        self.told.append(message)
        if isinstance(message, Command):
            self.state = self.after_command
            return Commanded(told=Told(status=200, headers=(), body=b"{}"), state=self.state)
        return self.state

    def last(self, kind: type[Any]) -> Any:
        return next((one for one in reversed(self.told) if isinstance(one, kind)), None)


def crew_of(count: int, *, shared: bool = False) -> tuple[Crew, list[Heard]]:
    async def handle(member: Member, message: Message) -> Message | None:
        return None

    crew = Crew(
        [[] for _ in range(count)], 0, shared=shared, begin=lambda slot: None, handle=handle,  # type: ignore[arg-type, return-value]
        changed=lambda: None, ended=lambda member: None,
    )  # fmt: skip
    heard = [Heard() for _ in range(count)]
    for slot in range(count):
        put(crew, slot, heard[slot])
    return crew, heard


def put(crew: Crew, slot: int, link: Heard, state: State = LOADING) -> Member:
    member = Member(slot, slot + 1, None, os.open("/dev/null", os.O_RDONLY))  # type: ignore[arg-type]
    member.link, member.state = link, state  # type: ignore[assignment]
    crew.members[slot] = member
    return member


def say(crew: Crew, slot: int, state: State) -> None:
    member = crew.members[slot]
    assert member is not None
    crew.told(member, state)


def slots(heard: list[Heard]) -> list[Any]:
    return [(one.last(Listen) or Listen(slots=())).slots for one in heard]


class Process:
    """One that lives until it is killed."""

    pid = 4711

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def kill(self) -> None:
        self.ended.set()

    async def wait(self) -> int:
        await self.ended.wait()
        return -9


def starting(
    monkeypatch: pytest.MonkeyPatch, start: Callable[[], Awaitable[Process]], *, delay_s: float = 0.001
) -> tuple[Crew, list[int]]:
    """A crew of one whose process is started like that, and the slots that were told to begin."""
    begun: list[int] = []

    async def start_process(*arguments: object, **named: object) -> Process:
        return await start()

    async def handle(member: Member, message: Message) -> Message | None:
        return None

    def begin(slot: int) -> Message:
        begun.append(slot)
        return Stop(grace_s=0.0, for_good=True)

    monkeypatch.setattr("asyncio.create_subprocess_exec", start_process)
    monkeypatch.setattr("onward.runners.serve.workers.crew._FIRST_DELAY_S", delay_s)
    monkeypatch.setattr("onward.runners.serve.workers.crew._LOOK_S", 0.01)
    crew = Crew(
        [[]], 0, shared=False, begin=begin, handle=handle,  # type: ignore[arg-type]
        changed=lambda: None, ended=lambda member: None,
    )  # fmt: skip
    return crew, begun


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_worker_that_cannot_be_started_at_one_moment_is_started_at_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = [OSError(errno.EMFILE, "too many open files"), BlockingIOError(errno.EAGAIN, "no more processes")]
    files: list[int] = []

    async def start() -> Process:
        files.append(open_files())
        if full:
            raise full.pop(0)
        return Process()

    crew, begun = starting(monkeypatch, start)
    running = asyncio.create_task(crew.run())
    while not begun and not running.done():
        await asyncio.sleep(0.001)
    assert len({*files}) == 1, "the tries before left files open"
    assert caplog.text.count("could not be started") == 2
    crew.kill()
    await asyncio.wait_for(running, 5)


async def test_where_no_worker_can_ever_be_started_the_server_says_that_it_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def start() -> Process:
        raise OSError(errno.ENOMEM, "out of memory")

    crew, begun = starting(monkeypatch, start)
    with pytest.raises(Unavailable, match="the log says why"):
        await asyncio.wait_for(crew.run(), 5)
    assert begun == []


async def test_who_pauses_before_the_next_start_hears_that_there_will_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Event()

    async def start() -> Process:
        tried.set()
        raise OSError(errno.EMFILE, "too many open files")

    crew, _ = starting(monkeypatch, start, delay_s=15.0)
    running = asyncio.create_task(crew.run())
    await tried.wait()
    await asyncio.sleep(0.02)
    crew.stop(0.0)
    await asyncio.wait_for(running, 2)


async def test_a_worker_that_starts_while_the_server_is_told_to_stop_does_not_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process()

    async def start() -> Process:
        crew.stop(0.0)
        return process

    crew, begun = starting(monkeypatch, start)
    await asyncio.wait_for(crew.run(), 2)
    assert begun == [] and process.ended.is_set()


async def test_a_module_in_the_folder_that_the_server_is_started_in_is_not_run_by_its_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    crew, _ = crew_of(1)
    with open("/dev/null", "rb") as turns:
        crew._turns = turns.fileno()
        member = await crew._start(0)
    assert member.link is not None
    member.link.close()  # it was told nothing, and has nothing to finish
    assert await asyncio.wait_for(member.process.wait(), 60) == 0
    member.leave()


def test_at_the_start_all_accept_to_say_that_they_are_not_ready_and_are_once_all_have_loaded() -> None:
    crew, heard = crew_of(3)
    crew.arrange()
    assert slots(heard) == [(0,), (1,), (2,)] and not crew.ready
    say(crew, 1, FIT)
    assert slots(heard) == [(), (0, 1, 2), ()] and not crew.ready
    say(crew, 0, FIT)
    say(crew, 2, FIT)
    assert slots(heard) == [(0,), (1,), (2,)] and crew.ready
    assert [one.last(Readiness) for one in heard] == [Readiness(ready=True)] * 3


def test_who_is_gone_is_stood_in_for_and_the_server_stays_ready_while_half_are_left() -> None:
    crew, heard = crew_of(4)
    for slot in range(4):
        say(crew, slot, FIT)
    for gone in (0, 1):
        crew.members[gone] = None
        crew.arrange()
        assert crew.ready
    assert {*slots(heard)[2], *slots(heard)[3]} == {0, 1, 2, 3} and len(slots(heard)[2]) == 2
    crew.members[2] = None
    crew.arrange()
    assert slots(heard)[3] == (0, 1, 2, 3) and not crew.ready
    put(crew, 2, Heard())
    say(crew, 2, FIT)
    assert crew.ready and {*slots(heard)[3]} == {0, 1, 3} - {*crew.members[2].listens}  # type: ignore[union-attr]


def test_once_it_was_ready_callers_wait_for_a_new_worker_rather_than_meet_one_without_models() -> None:
    crew, _ = crew_of(1)
    say(crew, 0, FIT)
    new = Heard()
    member = put(crew, 0, new)
    crew.arrange()
    assert member.listens == () and not crew.ready
    say(crew, 0, State(looked=True, complete=False))  # it is not about to become fit
    assert member.listens == (0,) and not crew.ready


def test_a_worker_that_drains_takes_nobody_any_more() -> None:
    crew, heard = crew_of(2)
    for slot in (0, 1):
        say(crew, slot, FIT)
    say(crew, 0, State(looked=True, complete=False, stopping=True))
    assert slots(heard)[1] == (0, 1) and crew.ready
    crew.stop(3.0)
    assert not crew.ready and heard[1].last(Stop) == Stop(grace_s=3.0, for_good=True)


def test_a_socket_that_all_share_is_accepted_on_by_each_once_it_has_loaded() -> None:
    crew, heard = crew_of(2, shared=True)
    crew.arrange()
    assert slots(heard) == [(), ()]
    say(crew, 0, FIT)
    assert slots(heard) == [(0,), ()]
    say(crew, 1, FIT)
    assert slots(heard) == [(0,), (1,)]


async def test_a_version_that_failed_in_one_worker_and_that_nobody_serves_is_avoided_by_the_others() -> None:
    crew, heard = crew_of(2)
    heard[0].state = State(looked=True, complete=True, failed=(Failure("m", "2", "BROKEN", "why"),))
    for slot in (0, 1):
        say(crew, slot, FIT)
    rollout = Rollout()
    await rollout.scan(crew)
    assert heard[0].last(Scan) == Scan(desired=Desired())
    assert heard[1].last(Scan) == Scan(desired=Desired(avoided=(("m", "2", "BROKEN"),)))
    assert rollout.desired(crew).avoided == (("m", "2", "BROKEN"),)
    heard[0].state = FIT  # its files changed, and it loads
    await rollout.scan(crew)
    assert heard[1].last(Scan) == Scan(desired=Desired())


async def test_a_worker_that_cannot_load_what_others_serve_is_replaced_not_followed() -> None:
    crew, heard = crew_of(2)
    heard[0].state = State(looked=True, complete=True, served=(Version("m", "2", "d"),))
    heard[1].state = State(looked=True, complete=True, failed=(Failure("m", "2", "MEMORY", "why"),))
    for slot in (0, 1):
        say(crew, slot, heard[slot].state)
    await Rollout().scan(crew)
    assert heard[1].last(Stop) == Stop(grace_s=0.0, for_good=False) and heard[0].last(Stop) is None
    assert all(scan.desired.avoided == () for scan in heard[0].told if isinstance(scan, Scan))


async def test_a_command_goes_to_one_worker_and_the_others_follow_to_where_it_then_is() -> None:
    crew, heard = crew_of(3)
    for slot in range(3):
        say(crew, slot, FIT)
    heard[0].after_command = State(looked=True, complete=True, unloaded=("m", "n"))
    rollout = Rollout()
    assert (await rollout.command(crew, ASK)).status == 200
    assert [one.last(Command) is not None for one in heard] == [True, False, False]
    assert [one.last(Scan) for one in heard[1:]] == [Scan(desired=Desired(unloaded=("m", "n")))] * 2
    assert rollout.desired(crew).unloaded == ("m", "n")  # who comes later hears it, too


async def test_a_worker_that_never_has_looked_does_not_keep_the_others_from_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onward.runners.serve.workers.rollout._FOLLOW_S", 0.02)
    crew, heard = crew_of(2)
    for slot in (0, 1):
        say(crew, slot, FIT)

    async def hangs(message: Message, *, timeout_s: float | None = None) -> Message:
        await asyncio.sleep(60 if timeout_s is None else timeout_s)
        raise Unavailable("no answer")

    heard[0].ask = hangs  # type: ignore[method-assign]
    rollout = Rollout()
    await asyncio.wait_for(rollout.scan(crew), 2)
    assert heard[1].last(Scan) == Scan(desired=Desired())
    with pytest.raises(Unavailable):
        await asyncio.wait_for(rollout.command(crew, ASK), 2)


async def test_a_worker_that_dies_of_a_command_leaves_the_others_as_they_are() -> None:
    crew, heard = crew_of(2)
    for slot in (0, 1):
        say(crew, slot, FIT)

    async def dies(message: Message, *, timeout_s: float | None = None) -> Message:
        heard[0].is_open = False
        raise Unavailable("the other process is gone")

    heard[0].ask = dies  # type: ignore[method-assign]
    rollout = Rollout()
    with pytest.raises(Unavailable):
        await rollout.command(crew, ASK)
    assert heard[1].last(Scan) is None and rollout.desired(crew).unloaded == ()
    await asyncio.wait_for(rollout.scan(crew), 1)
