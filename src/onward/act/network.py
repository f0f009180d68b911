"""Outgoing HTTP connections that end where they may: the address that is connected to is the one that was checked.

A name is resolved once, every address it gives is judged, and the socket is opened to the address itself; there is no
second look-up that could give another one. Everything on a connection shares one deadline, and it is known whether
anything has been sent. Knows nothing of actions.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from onward.errors import MissingExtra

try:
    import httpcore
except ImportError as missing:
    raise MissingExtra("actions over HTTP need httpcore: pip install 'onward[decide]'") from missing

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], list[str]]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NEVER = (
    ipaddress.ip_network("169.254.0.0/16"),  # link-local, and the cloud's metadata
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::/32"),  # metadata over IPv6
    ipaddress.ip_network("100.100.100.200/32"),  # metadata of one cloud, inside the shared range
    ipaddress.ip_network("192.0.0.192/32"),  # and of another
    ipaddress.ip_network("0.0.0.0/8"),  # some systems take these for this host
    ipaddress.ip_network("240.0.0.0/4"),  # reserved, and broadcast
)


class RefusedAddress(httpcore.ConnectError):
    """The name leads to addresses only that must not be connected to."""


def refusal(text: str, *, allow_private: bool, only_private: bool = False) -> str:
    """Why an address must not be connected to, "" where it may.

    Link-local addresses, where clouds keep their metadata, and what is no host are refused always; private and
    loopback ones unless `allow_private`; public ones where `only_private`.
    """
    try:
        address = _innermost(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return "not an address"
    if address.is_link_local or any(address in network for network in _NEVER):
        return "link-local, metadata or reserved"
    if address.is_multicast or address.is_unspecified:
        return "not a host"
    if not address.is_global:
        return "" if allow_private else "private"
    return "public, and the connection is not encrypted" if only_private else ""


def _innermost(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for: mapped, 6to4, Teredo or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address.teredo is not None:
        inner = address.teredo[1]
    if inner is None and (address in _NAT64 or 1 < int(address) < 1 << 32):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the system's order. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Deadline:
    """A moment by which everything has to be over."""

    def __init__(self, timeout_s: float) -> None:
        self._until_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """The time left, at least a millisecond: an I/O call with 0 would not block at all."""
        return max(self._until_s - time.monotonic(), 0.001)

    @property
    def over(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self._until_s


class Exchange(httpcore.NetworkBackend):
    """One connection for one request. `sent` becomes true just before its first byte leaves, TLS handshakes aside."""

    def __init__(
        self,
        deadline: Deadline,
        *,
        allow_private: bool,
        only_private: bool = False,
        resolver: Resolve = resolve,
        on_send: Callable[[], None] = lambda: None,
    ) -> None:
        self.deadline = deadline
        self.sent = False
        self._allow_private = allow_private
        self._only_private = only_private
        self._resolve = resolver
        self._on_send = on_send
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first of the host's addresses that may be connected to and answers."""
        problem: Exception = RefusedAddress("the host has no address that may be connected to")
        for address in self._allowed(host, port):
            try:
                stream = self._inner.connect_tcp(
                    address, port, timeout=self.deadline.left_s(), socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
                continue
            return _Stream(stream, self)
        raise problem

    def _allowed(self, host: str, port: int) -> list[str]:
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the host has no address") from error
        return [
            address
            for address in addresses
            if not refusal(address, allow_private=self._allow_private, only_private=self._only_private)
        ]

    def begin_sending(self) -> None:
        """Note that a byte is about to leave."""
        if not self.sent:
            self._on_send()
            self.sent = True


class _Stream(httpcore.NetworkStream):
    """A stream that keeps to the exchange's deadline and tells it when sending begins."""

    def __init__(self, inner: httpcore.NetworkStream, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._exchange.deadline.over:
            raise httpcore.ReadTimeout("the deadline has passed")
        return self._inner.read(max_bytes, self._exchange.deadline.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._exchange.deadline.over:
            raise httpcore.WriteTimeout("the deadline has passed")
        if buffer:
            self._exchange.begin_sending()
        self._inner.write(buffer, self._exchange.deadline.left_s())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._inner.start_tls(ssl_context, server_hostname, self._exchange.deadline.left_s())
        return _Stream(stream, self._exchange)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
