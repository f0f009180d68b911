"""One worker's process: it serves what the supervisor wants served, on the sockets it is told to accept on.

Started with two descriptors: its end of the link, and the lifeline, a pipe that closes when the supervisor is gone.
It then answers what it has taken, and ends. Knows nothing of the other workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from itertools import chain
from pathlib import Path

import uvloop

from onward.errors import OnwardError
from onward.execute.shared_weights import VARIABLE as WEIGHTS
from onward.package.repository import Repository
from onward.runners.serve.policies import Siblings
from onward.runners.serve.process import ServingProcess, leave_threads
from onward.runners.serve.workers.asking import Together, answer
from onward.runners.serve.workers.frames import (
    Ask,
    Begin,
    Command,
    Commanded,
    Desired,
    Failure,
    Listen,
    Measure,
    Measured,
    Message,
    OpenStore,
    Pulse,
    Readiness,
    Scan,
    State,
    Stop,
    Told,
    Version,
    Wake,
)
from onward.runners.serve.workers.link import Link
from onward.runners.serve.workers.listening import SharedServer
from onward.runners.serve.workers.totals import families_of
from onward.runners.serve.workers.turns import Turns
from onward.runners.serve.workers.weights_folder import WeightsFolder
from onward.unpickling import refuse_unpickling

_log = logging.getLogger("onward.serve")
PULSE_S = 2.0
_OPEN_STORE_S = 60.0
_LAST_MARGIN_S = 10.0


def main(arguments: list[str]) -> int:
    """Serve one supervisor until it says stop, or is gone. `arguments`: the descriptors of the link and lifeline."""
    # The terminal's Ctrl-C reaches the whole group; the supervisor decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    refuse_unpickling()
    uvloop.run(_work(socket.socket(fileno=int(arguments[0])), int(arguments[1])))
    leave_threads()
    return 0


async def _work(channel: socket.socket, lifeline: int) -> None:
    begun: asyncio.Future[Begin] = asyncio.get_running_loop().create_future()
    made: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()

    async def handle(message: Message) -> Message | None:
        if isinstance(message, Begin):
            begun.set_result(message)
            return None
        return await (await asyncio.shield(made)).handle(message)

    link = await Link.over(channel, handle)
    reading = asyncio.create_task(link.run())
    reading.add_done_callback(lambda _: begun.cancel())
    await asyncio.wait([begun])
    if begun.cancelled():
        return
    worker = Worker(begun.result(), link)
    made.set_result(worker)
    threading.Thread(target=_end_after, args=(lifeline, worker.longest_drain_s), name="lifeline", daemon=True).start()
    reading.add_done_callback(lambda _: worker.stop(0.0, for_good=True))
    await worker.run()
    if not link.is_open:
        worker.remove_weights()  # the supervisor, which would do so, was killed
    link.close()
    await reading


def _end_after(lifeline: int, limit_s: float) -> None:
    """Once the supervisor is gone, end whatever still hangs after the time that draining may take."""
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    time.sleep(limit_s)
    os._exit(1)


def _weights_folder(path: str) -> WeightsFolder | None:
    try:
        return WeightsFolder(Path(path)) if path else None
    except OSError as error:
        _log.warning("this worker has weights of its own: %s", error)
        return None


class Worker:
    """A serving process and its link to the supervisor. Lives on the event loop."""

    def __init__(self, begin: Begin, link: Link) -> None:
        options = begin.options
        form = f"%(asctime)s %(levelname).1s worker {begin.slot}: %(message)s"
        logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._grace_s = options.drain_grace_s
        self._stopping = False
        self._weights = _weights_folder(begin.weights)
        if self._weights is not None:
            os.environ[WEIGHTS] = begin.weights
        self._turns = Turns(begin.turns)
        os.close(begin.turns)
        siblings = Siblings(
            secret=begin.secret, turn=self._turns.turn, open_first=self._open_first, wake=self._wake
        )  # fmt: skip
        self._process = ServingProcess(options, Repository(options.repository), siblings=siblings)
        self._models = self._process.models
        self._models.held = True
        self._want(begin.desired)
        # A socket that was handed over is the same for all slots.
        made = {number: socket.socket(fileno=number) for number in {*chain.from_iterable(begin.sockets)}}
        # A service manager keeps the one that it handed over, for the next server.
        self._handed = len(made) < sum(map(len, begin.sockets))
        sockets = [[made[number] for number in numbers] for numbers in begin.sockets]
        self._server = SharedServer(self._process.inference_config(Together(self._process.app, self._ask_all)), sockets)
        self.longest_drain_s = 2 * options.drain_timeout_s + _LAST_MARGIN_S
        self._last: State | None = None

    async def run(self) -> None:
        """Serve until `stop`, then drain."""
        self._loop.add_signal_handler(signal.SIGTERM, lambda: self.stop(self._grace_s, for_good=False))
        background = [asyncio.create_task(self._load()), asyncio.create_task(self._pulse())]
        try:
            await self._server.serve(sockets=[])
        finally:
            for task in background:
                task.cancel()
            await self._process.drain()
            self._link.tell(Pulse(state=self._state(), families=families_of(self._process.app.state.registry)))
            self._turns.close()

    async def handle(self, message: Message) -> Message | None:
        """Do what the supervisor says, and tell what it asks. Raises `OnwardError` for what cannot be done."""
        match message:
            case Listen(slots):
                await self._server.listen(slots)
            case Readiness(ready):
                self._models.held = not ready
            case Stop(grace_s, for_good):
                self.stop(grace_s, for_good=for_good)
            case Measure():
                return Measured(families=families_of(self._process.app.state.registry))
            case Ask():
                return await answer(self._process.admin_app, message)
            case Scan(desired):
                self._want(desired)
                await self._models.scan()
                return self._state()
            case Command(ask, desired):
                self._want(desired)
                told = await answer(self._process.admin_app, ask)
                return Commanded(told=told, state=self._state())
        return None

    def _want(self, desired: Desired) -> None:
        self._models.unloaded = {*desired.unloaded}
        self._models.avoided = {(name, version): code for name, version, code in desired.avoided}

    def stop(self, grace_s: float, *, for_good: bool) -> None:
        """Be not ready; after the grace take nothing more, so that `run` ends. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        self._models.stop_accepting()
        self._tell_state()
        self._loop.call_later(grace_s, partial(self._server.let_go, for_good=for_good and not self._handed))

    def remove_weights(self) -> None:
        """Remove what the workers share; whoever still uses it has it until its end."""
        if self._weights is not None:
            self._weights.remove()

    async def _load(self) -> None:
        await self._process.load()
        self._tell_state()

    async def _pulse(self) -> None:
        while True:
            await asyncio.sleep(PULSE_S)
            families = families_of(self._process.app.state.registry)
            self._link.tell(Pulse(state=self._state(), families=families))

    def _tell_state(self) -> None:
        self._link.tell(self._state())

    def _state(self) -> State:
        models = self._models
        served = ((one.id.name, one.id.version, one.id.digest) for one in models.all())
        failed = ((name, version, error.code, str(error)) for (name, version), error in models.failed.items())
        return State(
            looked=models.looked,
            complete=models.complete,
            unloaded=tuple(sorted(models.unloaded)),
            served=tuple(Version(*one) for one in served),
            failed=tuple(Failure(*one) for one in failed),
            stopping=self._stopping,
        )

    async def _ask_all(self, ask: Ask | Measure) -> Told:
        told = await self._link.ask(ask)
        assert isinstance(told, Told)
        return told

    def _open_first(self) -> None:
        """On a loading thread: let the supervisor make the store first. Where it cannot, opening it here says why."""
        asked = asyncio.run_coroutine_threadsafe(self._link.ask(OpenStore(), timeout_s=_OPEN_STORE_S), self._loop)
        with contextlib.suppress(OnwardError):
            asked.result()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be woken
            self._loop.call_soon_threadsafe(self._link.tell, Wake())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
