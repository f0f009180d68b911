"""One serving process: its models and what decides for them, the routes over them, and how they drain.

The same object whether it serves alone or as one worker of several. Knows no signals, no sockets and no siblings.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from onward.execute.cores import cores
from onward.package.repository import Repository
from onward.runners.serve.admin import make_admin_app
from onward.runners.serve.app import make_app
from onward.runners.serve.http import protocol_for
from onward.runners.serve.models import Models
from onward.runners.serve.options import ServeOptions
from onward.runners.serve.policies import DecisionOptions, Policies, Siblings
from onward.runners.serve.voice.frames import MAX_FRAME_BYTES
from onward.runners.serve.voice.routes import socket_protocol

_log = logging.getLogger("onward.serve")
KEEP_ALIVE_S = 75
# How long the loop may keep the interpreter to itself while a thread waits to hand over a finished batch.
_SWITCH_INTERVAL_S = 0.0005
_LOADERS = 2  # more would take the cores from what is being served
_THREADS = "onward-pool"
_LAST_JOIN_S = 0.5


class HttpServer(uvicorn.Server):
    """uvicorn's server; signals are handled elsewhere, for all ports together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


class ServingProcess:
    """The models of one process and its two applications. Made on the event loop."""

    def __init__(self, options: ServeOptions, repository: Repository, *, siblings: Siblings | None = None) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self.options = options
        self._pool = ThreadPoolExecutor(max_workers=cores(), thread_name_prefix=f"{_THREADS}-prepare")
        self._loader = ThreadPoolExecutor(max_workers=_LOADERS, thread_name_prefix=f"{_THREADS}-load")
        self.policies = Policies(decision_options(options, siblings=siblings))
        self.models = Models(
            repository, self._pool, loader=self._loader, keep_versions=options.keep_versions, policies=self.policies
        )
        self._fast = protocol_for(self.models.routes)
        self.app = make_app(self.models, self.policies)
        self.admin_app = make_admin_app(self.models, self.policies, metrics=self.app.state.metrics)

    def inference_config(self, app: ASGIApp | None = None) -> uvicorn.Config:
        """How the port for inference is served; `app` in place of our own, which it then asks."""
        return config(app or self.app, self.options, self.options.port, http=self._fast, ws=socket_protocol())

    async def load(self) -> None:
        """Load all that is found for the first time."""
        await self.models.scan()
        # What is loaded stays: the collector need not walk through it again, and pauses in answering get shorter.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)

    async def drain(self) -> None:
        """Answer what was taken, write down what was decided, and free what was loaded; for as long as it may take."""
        try:
            async with asyncio.timeout(self.options.drain_timeout_s):
                await self.models.close()
                await self.policies.close()
            _log.info("drained; bye")
        except TimeoutError:
            _log.warning("ended before everything was answered")
        for executor in (self._loader, self._pool):
            executor.shutdown(wait=False, cancel_futures=True)


def decision_options(options: ServeOptions, *, siblings: Siblings | None = None) -> DecisionOptions:
    """What decisions need to know; beside siblings, the relay is the supervisor's."""
    relay = not options.no_relay and siblings is None
    return DecisionOptions(
        store=options.store, actions=options.actions, key_file=options.key_file, relay=relay, siblings=siblings
    )


def config(
    app: ASGIApp, options: ServeOptions, port: int, *, http: Any = "httptools",
    ws: Any = "none", host: str = "",
) -> uvicorn.Config:  # fmt: skip
    """How one port is served."""
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
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(options.drain_timeout_s),
        backlog=4096,
    )


def leave_threads() -> None:
    """End the process without the threads that are still busy: Python would join them, however long they load."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(_THREADS)]
    give_up_s = time.monotonic() + _LAST_JOIN_S
    for thread in threads:
        thread.join(max(give_up_s - time.monotonic(), 0.0))
    if any(thread.is_alive() for thread in threads):
        logging.shutdown()
        os._exit(0)
