"""What a replica of the target `ray` holds: a server's packages and routes, without its sockets and signals.

Ray Serve has those: it starts replicas, sends them requests, asks for their health and ends them. Requests meet the
same application, queues and error codes as behind `onward serve`, and are batched here, not by Serve. Imports nothing
of Ray: `application.py`, which `onward cloud` writes, puts the two together.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

from onward.errors import PackageError, Unavailable
from onward.execute.cores import cores
from onward.package.repository import Repository
from onward.runners.cloud.deployment import ACTIONS, REPOSITORY
from onward.runners.serve.app import make_app
from onward.runners.serve.models import Models
from onward.runners.serve.policies import DecisionOptions, Policies

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

_log = logging.getLogger("onward.serve")
_SWITCH_INTERVAL_S = 0.0005
_LOADERS = 2
_DRAIN_TIMEOUT_S = 30.0


class Replica:
    """The deployment's class but for Serve's part. Opened once, on the loop that requests come in on."""

    async def open(self, folder: Path) -> None:
        """Load and warm every package of a folder on this node, with its actions.

        Raises `PackageError` with the reasons where not all of them are served.
        """
        self._pool = ThreadPoolExecutor(max_workers=cores(), thread_name_prefix="onward-pool-prepare")
        self._loader = ThreadPoolExecutor(max_workers=_LOADERS, thread_name_prefix="onward-pool-load")
        options = _decision_options(folder)
        self._policies = None if options is None else Policies(options)
        repository = Repository(folder / REPOSITORY.name)
        self._models = Models(repository, self._pool, loader=self._loader, policies=self._policies)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        await self._models.scan()
        if not self._models.ready or not self._models.names():
            reasons = [f"{name} {version}: {error}" for (name, version), error in self._models.failed.items()]
            await self.close()
            expected = "" if self._policies else "ONWARD_STORE in the node's environment, where a package decides"
            raise PackageError("not every package is served", expected=expected,
                               found="; ".join(reasons) or "no packages")  # fmt: skip
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not walk through it again
        _log.info("ready: %s", ", ".join(self._models.names()))

    def __serve_build_asgi_app__(self) -> Application:
        """What answers this replica's requests; it ends with its lifespan."""
        return _Ending(make_app(self._models, self._policies), self.close)

    def check_health(self) -> None:
        """What `/v2/health/ready` tells; Serve replaces a replica for which this fails. Raises `Unavailable`."""
        if not self._models.ready:
            raise Unavailable("not every package is served")

    async def close(self) -> None:
        """Answer what has been taken in, then let go of packages and store."""
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                await self._models.close()
                if self._policies is not None:
                    await self._policies.close()
        except TimeoutError:
            _log.warning("ended before everything was answered")
        for executor in (self._loader, self._pool):
            executor.shutdown(wait=False, cancel_futures=True)


class _Ending:
    """An application that does something when its lifespan ends."""

    def __init__(self, app: Application, end: Callable[[], Awaitable[None]]) -> None:
        self._app = app
        self._end = end

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await self._end()
        await send({"type": "lifespan.shutdown.complete"})


def _decision_options(folder: Path) -> DecisionOptions | None:
    """From the node's environment, as for a server; but no store of each replica's own: they would not know of others.

    None where no store is named: then packages that decide are not served.
    """
    store, key_file, actions = os.environ.get("ONWARD_STORE"), os.environ.get("ONWARD_KEY_FILE"), folder / ACTIONS
    if not store:
        return None
    return DecisionOptions(
        store=store, actions=actions if actions.is_file() else None, key_file=Path(key_file) if key_file else None
    )
