"""The real-time runner: sockets, signals and the life of the server process.

start → listen (live, not ready) → load and warm every model → ready → SIGTERM: not ready → drain → exit 0.
With several workers the same, by `onward.runners.serve.workers`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket

import uvloop

from onward.errors import UsageError
from onward.package.repository import Repository
from onward.runners.serve.activation import inherited_socket, notify
from onward.runners.serve.models import Models
from onward.runners.serve.options import ServeOptions as ServeOptions
from onward.runners.serve.process import HttpServer, ServingProcess, config, leave_threads

_log = logging.getLogger("onward.serve")


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT; returns after the drain, or ends the process where a model still loads then."""
    handed = inherited_socket()
    _check_host(options, handed.getsockname() if handed else options.host)
    _check_actions(options)
    if options.workers > 1:
        from onward.runners.serve.workers.supervisor import supervise

        Repository(options.repository)
        supervise(options, handed)
    else:
        uvloop.run(_serve(options, Repository(options.repository), handed))
    leave_threads()


async def _serve(options: ServeOptions, repository: Repository, handed: socket.socket | None) -> None:
    process = ServingProcess(options, repository)
    public = HttpServer(process.inference_config())
    admin = HttpServer(config(process.admin_app, options, options.admin_port, host="127.0.0.1"))
    servers = [public, admin]
    loaded = asyncio.Event()
    running = [asyncio.create_task(_serve_on(handed, public, loaded)), asyncio.create_task(admin.serve())]
    _stop_on_signals(servers, process.models, options.drain_grace_s, loaded)
    background = asyncio.create_task(_keep_loaded(process, options.watch_interval_s, loaded))
    try:
        await asyncio.gather(*running)
    finally:
        background.cancel()
        for server in servers:
            server.should_exit = True
        await process.drain()


async def _serve_on(handed: socket.socket | None, server: HttpServer, loaded: asyncio.Event) -> None:
    """Serve on a socket of our own at once; on one that was handed over, callers can wait until there is an answer."""
    if handed is None:
        await server.serve()
    else:
        await loaded.wait()
        await server.serve(sockets=[handed])


async def _keep_loaded(process: ServingProcess, interval_s: float, loaded: asyncio.Event) -> None:
    await process.load()
    loaded.set()
    models = process.models
    if models.ready:
        _log.info("ready: %s", ", ".join(models.names()) or "no models yet")
        notify("READY=1")
    if interval_s > 0:
        await models.watch(interval_s)


def _stop_on_signals(servers: list[HttpServer], models: Models, grace_s: float, loaded: asyncio.Event) -> None:
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
