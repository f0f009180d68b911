"""Reading a small file of a package that nobody vouches for yet: a plain file, of a size that was agreed before.

A named pipe where a manifest should be would keep its reader waiting for ever, and a file without an end would fill
its memory. Knows nothing of what the files mean.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onward.errors import PackageError

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_plain(file: Path, limit_bytes: int, *, links: bool = False) -> bytes:
    """The contents of a plain file; with `links`, of what a link leads to.

    Raises `PackageError` for anything else and for more than `limit_bytes`, and `OSError` where it cannot be read.
    """
    if not links and file.is_symlink():
        raise PackageError("a link", where=str(file), expected="a plain file")
    descriptor = os.open(file, _FLAGS | (0 if links else getattr(os, "O_NOFOLLOW", 0)))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PackageError("not a plain file", where=str(file), expected="a plain file")
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise PackageError("the file is too large", where=str(file), expected=f"at most {limit_bytes} bytes")
    return data
