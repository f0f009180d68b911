"""The folder for the weights that the workers of one server share, and what killed servers left of theirs.

Whoever uses one holds a shared lock on it, which the kernel gives up with the process: one that nobody holds is stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path

_log = logging.getLogger("onward.serve")
_PREFIX = "onward-weights-"


class WeightsFolder:
    """One process's use of a folder."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` where it is not there, or about to be removed."""
        self.path = path
        self._held = _opened(path)
        fcntl.flock(self._held, fcntl.LOCK_SH)
        if not path.is_dir():  # somebody took it for a stale one, before the lock was ours
            os.close(self._held)
            raise FileNotFoundError(path)

    def remove(self) -> None:
        """It is needed no more. What a process has mapped of it stays there for that process."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def new_folder() -> WeightsFolder | None:
    """A new one, once the stale ones are gone; None where none can be made."""
    try:
        parent = Path(tempfile.gettempdir())
        for path in parent.glob(f"{_PREFIX}*"):
            _remove_stale(path)
        return WeightsFolder(Path(tempfile.mkdtemp(prefix=_PREFIX)))
    except OSError as error:
        _log.warning("each worker has weights of its own: %s", error)
        return None


def _remove_stale(path: Path) -> None:
    with contextlib.suppress(OSError):  # in use, another user's, or removed by somebody else
        held = _opened(path)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(held).st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(held)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
