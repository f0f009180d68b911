"""Two jobs never write to one output: an advisory lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onward.runners.batch.errors import OutputBusy


@contextmanager
def locked(path: Path, *, output: str) -> Iterator[None]:
    """Hold the lock file. Raises `OutputBusy` where another process holds it.

    The file goes away with the job: who opened it just before has locked a file that nobody else will find, so it is
    looked at again once it is locked.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputBusy(where=output) from None
        except BaseException:
            os.close(descriptor)
            raise
        try:
            current = path.stat().st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            current = False
        if current:
            break
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
