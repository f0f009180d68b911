"""Turns at a conversation between processes: a lock on one byte of a file that nothing is ever written to.

The kernel gives up the locks of a process that dies, however it dies. Linux only. Threads of one process are to take
turns among themselves first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

# struct flock: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")


def turns_file() -> int:
    """The descriptor of a new file to take turns by; it is gone with the last process that has it."""
    return os.memfd_create("onward-turns")


class Turns:
    """One process's view of the file."""

    def __init__(self, inherited: int) -> None:
        # Opened anew: locks belong to what was opened, and an inherited descriptor is the others', too.
        self._file = os.open(f"/proc/self/fd/{inherited}", os.O_RDWR | os.O_CLOEXEC)

    @contextmanager
    def turn(self, tenant: str, conversation: str) -> Iterator[None]:
        """Wait until no other process has this conversation, and keep it for the block. Blocking: for a thread."""
        digest = hashlib.sha256(f"{tenant}\0{conversation}".encode("utf-8", "surrogatepass")).digest()
        start = int.from_bytes(digest[:8], "big") >> 2
        self._lock(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, start)
        try:
            yield
        finally:
            self._lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, start)

    def _lock(self, command: int, kind: int, start: int) -> None:
        fcntl.fcntl(self._file, command, _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0))

    def close(self) -> None:
        """Give everything back."""
        os.close(self._file)
