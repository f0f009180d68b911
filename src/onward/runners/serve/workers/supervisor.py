"""The supervisor: owns the port's sockets, the admin port, the desired state, the relay and the sum of the metrics.

start the workers → ready once all are → SIGTERM: not ready → all drain → exit 0. It loads no model and answers no
inference request itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys

import uvloop
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.registry import CollectorRegistry

from onward.errors import UsageError
from onward.runners.serve.activation import notify
from onward.runners.serve.connection import PatientProtocol
from onward.runners.serve.descriptors import most_connections, raise_limit
from onward.runners.serve.options import ServeOptions
from onward.runners.serve.policies import Policies
from onward.runners.serve.process import HttpServer, config, decision_options
from onward.runners.serve.workers.admin import asked_of_all, make_workers_admin
from onward.runners.serve.workers.crew import Crew, Member
from onward.runners.serve.workers.frames import Ask, Begin, Done, Measure, Message, OpenStore, Pulse, Told, Wake
from onward.runners.serve.workers.listening import listen_on
from onward.runners.serve.workers.rollout import Rollout
from onward.runners.serve.workers.totals import Totals
from onward.runners.serve.workers.turns import turns_file
from onward.runners.serve.workers.weights_folder import WeightsFolder, new_folder
from onward.telemetry import DecisionCollector

_log = logging.getLogger("onward.serve")
_MARGIN_S = 5.0


def supervise(options: ServeOptions, handed: socket.socket | None) -> None:
    """Serve with several workers until SIGTERM or SIGINT; returns after the drain. Raises `Unavailable`."""
    if sys.platform != "linux":
        raise UsageError("several workers share a port on Linux only", where="--workers", expected="1")
    if options.store.startswith("memory:"):
        raise UsageError(
            "several workers cannot share a store that is in memory",
            where="--store",
            expected="sqlite:/// or postgresql://",
        )
    raise_limit()
    admin = listen_on("127.0.0.1", options.admin_port, 1)[0]
    if handed is not None:
        sockets = [[handed]] * options.workers
    else:
        sockets = listen_on(options.host, options.port, options.workers)
    uvloop.run(Supervisor(options, sockets, shared=handed is not None).run(admin))


def _protocol() -> type[PatientProtocol]:
    """What the admin port speaks: never on so many connections that no file is left to start a worker with."""
    return type("AdminProtocol", (PatientProtocol,), {"most_connections": most_connections()})


class Supervisor:
    """The supervisor of one server. Made anywhere, run on the event loop."""

    def __init__(self, options: ServeOptions, sockets: list[list[socket.socket]], *, shared: bool) -> None:
        self._options = options
        self._sockets = sockets
        self._shared = shared
        self._secret = secrets.token_bytes(32)
        self._turns = turns_file()
        self._weights: WeightsFolder | None = None
        self._rollout = Rollout()
        self._told_ready = False
        self._stopping = False

    async def run(self, admin_sockets: list[socket.socket]) -> None:
        """Serve until told to stop."""
        self._weights = new_folder()
        try:
            await self._serve(admin_sockets)
        finally:
            self._remove_weights()

    async def _serve(self, admin_sockets: list[socket.socket]) -> None:
        options = self._options
        self._policies = Policies(decision_options(options))
        own = CollectorRegistry(auto_describe=False)
        own.register(DecisionCollector(self._policies.metrics, self._policies.backlog))
        self._totals = Totals(own, self._policies.refresh_backlog)
        self._crew = Crew(
            self._sockets, self._turns, shared=self._shared, begin=self._begin, handle=self._handle,
            changed=self._changed, ended=lambda member: self._totals.retire(member.number),
        )  # fmt: skip
        app = make_workers_admin(self._crew, self._rollout, self._totals)
        self._admin = HttpServer(config(app, options, options.admin_port, host="127.0.0.1", http=_protocol()))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        serving = asyncio.create_task(self._admin.serve(sockets=admin_sockets))
        watching = asyncio.create_task(self._watch())
        try:
            await self._crew.run()
        finally:
            self._crew.kill()
            watching.cancel()
            self._admin.should_exit = True
            await serving
            await self._policies.close()
        _log.info("every worker has ended; bye")

    def _begin(self, slot: int) -> Begin:
        sockets = tuple(tuple(one.fileno() for one in of_slot) for of_slot in self._sockets)
        return Begin(
            options=self._options, slot=slot, sockets=sockets, turns=self._turns, secret=self._secret,
            weights=str(self._weights.path) if self._weights else "", desired=self._rollout.desired(self._crew),
        )  # fmt: skip

    async def _watch(self) -> None:
        if self._options.watch_interval_s > 0:
            await self._rollout.watch(self._crew, self._options.watch_interval_s)

    async def _handle(self, member: Member, message: Message) -> Message | None:
        match message:
            case Pulse():
                self._totals.update(member.number, message.families)
            case Wake():
                self._policies.wake_relay()
            case Measure():
                page = await self._totals.page(self._crew)
                return Told(status=200, headers=((b"content-type", CONTENT_TYPE_LATEST.encode()),), body=page)
            case Ask():
                return await asked_of_all(self._crew, message)
            case OpenStore():
                await asyncio.get_running_loop().run_in_executor(None, self._policies.open)
                return Done()
        return None

    def _changed(self) -> None:
        if self._crew.ready and not self._told_ready:
            self._told_ready = True
            names = {one.name for member in self._crew.up() for one in member.state.served}
            _log.info("ready, with %d workers: %s", self._crew.size, ", ".join(sorted(names)) or "no models yet")
            notify("READY=1")

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping:
            _log.warning("%s again: ending at once", number.name)
            self._crew.kill()
            self._remove_weights()
            logging.shutdown()
            os._exit(0)
        self._stopping = True
        _log.info("%s: not ready any more, draining", number.name)
        notify("STOPPING=1")
        options = self._options
        self._crew.stop(options.drain_grace_s)
        loop = asyncio.get_running_loop()
        loop.call_later(options.drain_grace_s, self._let_go)
        loop.call_later(options.drain_grace_s + 2 * options.drain_timeout_s + _MARGIN_S, self._crew.kill)

    def _remove_weights(self) -> None:
        if self._weights is not None:
            self._weights.remove()

    def _let_go(self) -> None:
        for of_slot in self._sockets:
            for one in of_slot:
                one.close()
