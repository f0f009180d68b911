"""The real-time runner: sockets, signals and the life of the server process.

start → listen (live, not ready) → load and warm every model → ready → SIGTERM: not ready → drain → exit 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.applications import Starlette

from onward.errors import UsageError
from onward.execute.onnx import cores
from onward.package.repository import Repository
from onward.runners.serve.activation import inherited_socket, notify
from onward.runners.serve.admin import make_admin_app
from onward.runners.serve.app import make_app
from onward.runners.serve.http import protocol_for
from onward.runners.serve.models import Models
from onward.runners.serve.policies import DecisionOptions, Policies
from onward.runners.serve.voice.frames import MAX_FRAME_BYTES
from onward.runners.serve.voice.routes import socket_protocol

_log = logging.getLogger("onward.serve")
_KEEP_ALIVE_S = 75
# How long the loop may keep the interpreter to itself while a thread waits to hand over a finished batch.
_SWITCH_INTERVAL_S = 0.0005
_LOADERS = 2  # more would take the cores from what is being served
_THREADS = "onward-pool"
_LAST_JOIN_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve. `drain_grace_s` is how long SIGTERM keeps accepting while "not ready" spreads.

    The last four are of use where a package has a policy; see `DecisionOptions`.
    """

    repository: Path
    host: str = "127.0.0.1"
    port: int = 8000
    admin_port: int = 8002
    insecure: bool = False
    keep_versions: int = 1
    watch_interval_s: float = 1.0
    drain_grace_s: float = 0.0
    drain_timeout_s: float = 30.0
    store: str = "sqlite:///var/onward.db"
    actions: Path | None = None
    key_file: Path | None = None
    no_relay: bool = False


class _Server(uvicorn.Server):
    """uvicorn's server; signals are handled below, for both ports together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT; returns after the drain, or ends the process where a model still loads then."""
    handed = inherited_socket()
    _check_host(options, handed.getsockname() if handed else options.host)
    _check_actions(options)
    repository = Repository(options.repository)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    uvloop.run(_serve(options, repository, handed))
    _leave_threads()


async def _serve(options: ServeOptions, repository: Repository, handed: socket.socket | None) -> None:
    pool = ThreadPoolExecutor(max_workers=cores(), thread_name_prefix=f"{_THREADS}-prepare")
    loader = ThreadPoolExecutor(max_workers=_LOADERS, thread_name_prefix=f"{_THREADS}-load")
    policies = Policies(_decision_options(options))
    models = Models(repository, pool, loader=loader, keep_versions=options.keep_versions, policies=policies)
    fast = protocol_for(models.routes)
    app = make_app(models, policies)
    public = _Server(_config(app, options, options.port, http=fast, ws=socket_protocol()))
    admin_app = make_admin_app(models, policies, metrics=app.state.metrics)
    admin = _Server(_config(admin_app, options, options.admin_port, host="127.0.0.1"))
    servers = [public, admin]
    loaded = asyncio.Event()
    running = [asyncio.create_task(_serve_on(handed, public, loaded)), asyncio.create_task(admin.serve())]
    _stop_on_signals(servers, models, options.drain_grace_s, loaded)
    background = asyncio.create_task(_keep_loaded(models, options.watch_interval_s, loaded))
    try:
        await asyncio.gather(*running)
    finally:
        background.cancel()
        for server in servers:
            server.should_exit = True
        try:
            async with asyncio.timeout(options.drain_timeout_s):
                await models.close()
                await policies.close()
            _log.info("drained; bye")
        except TimeoutError:
            _log.warning("ended before everything was answered")
        for executor in (loader, pool):
            executor.shutdown(wait=False, cancel_futures=True)


async def _serve_on(handed: socket.socket | None, server: _Server, loaded: asyncio.Event) -> None:
    """Serve on a socket of our own at once; on one that was handed over, callers can wait until there is an answer."""
    if handed is None:
        await server.serve()
    else:
        await loaded.wait()
        await server.serve(sockets=[handed])


def _decision_options(options: ServeOptions) -> DecisionOptions:
    return DecisionOptions(
        store=options.store, actions=options.actions, key_file=options.key_file, relay=not options.no_relay
    )


def _leave_threads() -> None:
    """End the process without the threads that are still busy: Python would join them, however long they load."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(_THREADS)]
    give_up_s = time.monotonic() + _LAST_JOIN_S
    for thread in threads:
        thread.join(max(give_up_s - time.monotonic(), 0.0))
    if any(thread.is_alive() for thread in threads):
        logging.shutdown()
        os._exit(0)


async def _keep_loaded(models: Models, interval_s: float, loaded: asyncio.Event) -> None:
    await models.scan()
    loaded.set()
    # What is loaded stays: the collector need not walk through it again, and pauses in answering get shorter.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    if models.ready:
        _log.info("ready: %s", ", ".join(models.names()) or "no models yet")
        notify("READY=1")
    if interval_s > 0:
        await models.watch(interval_s)


def _config(
    app: Starlette, options: ServeOptions, port: int, *, http: Any = "httptools",
    ws: Any = "none", host: str = "",
) -> uvicorn.Config:  # fmt: skip
    return uvicorn.Config(
        app,
        host=host or options.host,
        port=port,
        http=http,
        ws=ws,
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,  # sound does not get smaller
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(options.drain_timeout_s),
        backlog=4096,
    )


def _stop_on_signals(servers: list[_Server], models: Models, grace_s: float, loaded: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def exit_all() -> None:
        for server in servers:
            server.should_exit = True
        loaded.set()  # who waits for it need not any more

    stopping = False

    def stop(number: signal.Signals) -> None:
        nonlocal stopping
        if stopping:
            _log.warning("%s again: ending at once", number.name)
            logging.shutdown()
            os._exit(0)
        stopping = True
        _log.info("%s: not ready any more, draining", number.name)
        notify("STOPPING=1")
        models.stop_accepting()
        loop.call_later(grace_s, exit_all)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


def _check_host(options: ServeOptions, address: str | tuple[str, int]) -> None:
    """Nobody should open a server without keys to a network by accident.

    `address` is the host to listen on, or a handed socket's name: host and port, or a path of this machine.
    """
    host = address if isinstance(address, str) else address[0]
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if not (here or options.insecure or host.startswith("/")):
        raise UsageError(
            "serving beyond this machine without keys needs --insecure",
            where="--host", expected="a loopback address", found=host,
        )  # fmt: skip


def _check_actions(options: ServeOptions) -> None:
    """A mistake in the operator's file should be told at the start, not with the first package that needs it."""
    if options.actions is not None:
        from onward.act.targets import load_targets

        load_targets(options.actions)
