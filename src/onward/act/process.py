"""One run of a child process: input in, a bounded output back, gone with all it started when its time is over.

Knows nothing of actions. The child has its own process group and session, an environment of its own, and no
descriptor of ours but its three streams; what it writes to stderr goes where ours goes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class NotStarted(Exception):
    """The program could not be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended: `status` is the exit status, negative for a signal, None where its time was over."""

    status: int | None
    output: bytes
    too_large: bool = False


def run(
    argv: Sequence[str],
    *,
    stdin: bytes,
    env: Mapping[str, str],
    folder: Path,
    timeout_s: float,
    max_output_bytes: int,
) -> Ended:
    """Run a program without a shell. Raises `NotStarted`."""
    until_s = time.monotonic() + timeout_s
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(env),
            cwd=folder,
            start_new_session=True,
            close_fds=True,
        )
    except (OSError, ValueError) as error:
        raise NotStarted(type(error).__name__) from error
    assert child.stdin is not None and child.stdout is not None
    try:
        output, too_large = _talk(child.stdin, child.stdout, stdin, until_s, max_output_bytes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(until_s - time.monotonic(), 0.0))
        status = child.poll()
    finally:
        _end(child)
    return Ended(status=status, output=output, too_large=too_large)


def _talk(into: IO[bytes], out: IO[bytes], data: bytes, until_s: float, max_output_bytes: int) -> tuple[bytes, bool]:
    """Write all the input and read the output until it is closed or the time is over; the output up to its bound."""
    output, too_large, waiting = bytearray(), False, memoryview(data)
    os.set_blocking(into.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        selector.register(into, selectors.EVENT_WRITE)
        while selector.get_map():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            for key, _ in selector.select(left_s):
                if key.fileobj is into:
                    try:
                        waiting = waiting[os.write(into.fileno(), waiting[:65536]) :]
                    except BrokenPipeError:  # it does not want to know
                        waiting = memoryview(b"")
                    except BlockingIOError:
                        continue
                    if not waiting:
                        selector.unregister(into)
                        _close(into)
                    continue
                chunk = os.read(out.fileno(), 65536)
                if not chunk:
                    selector.unregister(out)
                elif len(output) + len(chunk) > max_output_bytes:
                    too_large = True  # read on, so that it does not block, and keep nothing
                else:
                    output += chunk
    return (b"" if too_large else bytes(output)), too_large


def _close(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        stream.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the whole group, which may outlive its leader, and reap the leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            _close(stream)
