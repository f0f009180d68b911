"""A service manager's side of a server: the socket that it hands over, and what it is told.

systemd's protocol, spoken without its library: `LISTEN_FDS` says that the listening socket is open already, which it
stays while the server is replaced, so that nobody is refused meanwhile; `NOTIFY_SOCKET` is where to say that the
server is ready. Without such a manager, both do nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket

from onward.errors import UsageError

_FIRST_FD = 3


def inherited_socket() -> socket.socket | None:
    """The listening socket that was handed over, if any; asked once, as child processes are not meant by it.

    Raises `UsageError` where what was handed over is not one listening stream socket.
    """
    meant, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if meant != str(os.getpid()) or not count.isdecimal() or int(count) == 0:
        return None
    if int(count) != 1:
        raise UsageError("several sockets were handed over", where="LISTEN_FDS", expected="1", found=count)
    os.set_inheritable(_FIRST_FD, False)
    try:
        handed = socket.socket(fileno=_FIRST_FD)
        listens = handed.type == socket.SOCK_STREAM and handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise _not_a_socket(str(error)) from None
    if not listens:
        raise _not_a_socket("another file")
    return handed


def notify(state: str) -> None:
    """Tell the service manager, if there is one: `READY=1`, `STOPPING=1`. What it does not hear harms nobody."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


def _not_a_socket(found: str) -> UsageError:
    return UsageError("not a socket to serve on", where="LISTEN_FDS", expected="a listening socket", found=found)
