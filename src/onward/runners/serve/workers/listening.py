"""Sockets that listen for several workers: one for each on the same port, held by the supervisor too.

The kernel spreads new connections over them (SO_REUSEPORT). A worker that dies leaves its socket, with who waits there,
to be taken over by another one. A socket that a service manager handed over is one for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

import uvicorn

from onward.errors import Unavailable
from onward.runners.serve.process import HttpServer

BACKLOG = 4096


def listen_on(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """For each of `count` workers the sockets of every address that the host has. Raises `Unavailable`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for family, address in addresses:
            # Another server of the same user would share the port with us without a word.
            _listening(family, address, reuse_port=False).close()
        return [[_listening(family, address, reuse_port=True) for family, address in addresses] for _ in range(count)]
    except OSError as error:
        raise Unavailable(f"cannot listen: {error}", where=f"{host}:{port}") from None


def _listening(family: int, address: tuple[object, ...], *, reuse_port: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setblocking(False)
        made.bind(address)
        if reuse_port:
            made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


class SharedServer(HttpServer):
    """uvicorn's server, which accepts on the sockets that it is told to, from one moment to the next."""

    def __init__(self, config: uvicorn.Config, sockets: Sequence[Sequence[socket.socket]]) -> None:
        super().__init__(config)
        self._sockets = sockets
        self._listening: dict[int, list[asyncio.base_events.Server]] = {}
        self._changing = asyncio.Lock()
        self._wanted: frozenset[int] = frozenset()

    async def listen(self, slots: Sequence[int]) -> None:
        """Accept the connections of these slots, and of no others. What has been accepted stays here."""
        self._wanted = frozenset(slots)
        async with self._changing:
            while not self.started:
                await asyncio.sleep(0.005)
            if self.should_exit:
                return
            for slot in self._listening.keys() - self._wanted:
                for server in self._listening.pop(slot):
                    server.close()
                    self.servers.remove(server)
            for slot in self._wanted - self._listening.keys():
                self._listening[slot] = [await self._accepting(one.dup()) for one in self._sockets[slot]]
                self.servers += self._listening[slot]

    async def _accepting(self, listening: socket.socket) -> asyncio.base_events.Server:
        config = self.config
        loop = asyncio.get_running_loop()

        def connected() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )
            return made

        return await loop.create_server(connected, sock=listening, backlog=config.backlog)

    def let_go(self, *, for_good: bool) -> None:
        """Accept nobody any more. `for_good`: nor is anybody else to; who connects is refused from this moment on.

        Otherwise whoever connects while the workers close their sockets, one after the other, would wait for nobody.
        """
        self.should_exit = True
        for slot, servers in self._listening.items():
            for server in servers:
                server.close()
                self.servers.remove(server)
            for one in self._sockets[slot] if for_good else ():
                with contextlib.suppress(OSError):  # another worker was faster
                    one.shutdown(socket.SHUT_RDWR)
        self._listening.clear()
        for sockets in self._sockets:
            for one in sockets:
                one.close()
