"""Opens packages that nobody should, each in a process of its own with little memory and time. Run as a script.

    python opener.py LIST.json      a list of paths; one line of JSON for each, in order

Onward is imported once; then a process is forked for each path, limited, and watched.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from onward.errors import OnwardError
from onward.opening import open_pipeline

MORE_MEMORY_BYTES = 512 << 20
"""Beyond what the process has mapped once Onward is imported."""
CPU_S = 5
WALL_S = 20


def mapped_bytes() -> int:
    """The address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def opened(path: str) -> str:
    """What came of opening a package: a code, "opened", or the kind of exception that should not be."""
    try:
        open_pipeline(path).close()
    except OnwardError as error:
        return error.code
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "opened"


def watched(path: str) -> dict[str, object]:
    """Open a path in a limited process: what it said, how it ended, and what it took."""
    read, write = os.pipe()
    started_s = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        limit = mapped_bytes() + MORE_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        signal.alarm(WALL_S)
        os.write(write, opened(path).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    _, status, usage = os.wait4(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    return {
        "said": said or f"ended with {ended}", "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.monotonic() - started_s, "memory_bytes": usage.ru_maxrss << 10,
    }  # fmt: skip


if __name__ == "__main__":
    for one in json.loads(Path(sys.argv[1]).read_text()):
        sys.stdout.write(json.dumps(watched(one)) + "\n")
        sys.stdout.flush()
