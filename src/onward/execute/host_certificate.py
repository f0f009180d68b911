"""What was found out about a package on this machine, kept for the next start.

Bits depend on the processor, the runtime and the number of threads, so the facts are kept by these and the package's
digest, in the folder of caches. A file that is missing, broken or of another key is no fact: it is found out again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import platform
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import onnxruntime

from onward.execute.invariance import Shapes
from onward.package.archive import cache_folder

_log = logging.getLogger("onward.execute")
# Of the way in which it is found out: facts of another way are not taken over.
_METHOD = 1
_CPUINFO = Path("/proc/cpuinfo")


class HostKey(msgspec.Struct, frozen=True, kw_only=True):
    """What the facts depend on. `processor` is a digest of its name and its flags."""

    digest: str
    runtime: str
    processor: str
    threads: int
    providers: tuple[str, ...] = ()
    method: int = _METHOD


class HostCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """The facts, as they are kept: for each length the numbers of rows that give equal bits."""

    key: HostKey
    rows: dict[int, tuple[int, ...]]


def host_key(digest: str, *, threads: int, providers: Sequence[str] = ()) -> HostKey:
    """The key of a package on this machine, with the runtime that is installed."""
    return HostKey(
        digest=digest, runtime=f"onnxruntime {onnxruntime.__version__}", processor=processor(_CPUINFO), threads=threads,
        providers=tuple(providers),
    )  # fmt: skip


def certified(key: HostKey, find_out: Callable[[], Shapes], *, cache: Path | None = None) -> Shapes:
    """The shapes kept under the key, else those that `find_out` finds; a package without digest is not kept."""
    if not key.digest:
        return find_out()
    file = certificate_file(key, cache)
    if (shapes := _known(file, key)) is not None:
        return shapes
    with _alone(file):
        if (shapes := _known(file, key)) is None:
            shapes = find_out()
            _write(file, HostCertificate(key=key, rows=dict(shapes.rows)))
    return shapes


def certificate_file(key: HostKey, cache: Path | None = None) -> Path:
    """Where the facts of this key are kept."""
    name = hashlib.sha256(json.dumps(msgspec.to_builtins(key), sort_keys=True).encode()).hexdigest()
    return (cache or cache_folder()) / "certificates" / f"{name[:40]}.json"


def processor(cpuinfo: Path) -> str:
    """SHA-256 of the processor's model and flags, shortened; of what Python knows where there is no such file."""
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    told: list[str] = []
    with suppress(OSError):
        first = cpuinfo.read_text("utf-8", "replace").split("\n\n")[0]
        told = [line for line in first.splitlines() if line.split(":")[0].strip() in wanted]
    facts = "\n".join([platform.machine(), *(told or [platform.processor()])])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Workers that start together find it out once: the others wait. Where no lock is to be had, all find it out."""
    with ExitStack() as stack:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(file.with_suffix(".lock").open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, or the process ends
        yield


def _known(file: Path, key: HostKey) -> Shapes | None:
    kept = _read(file)
    if kept is None or kept.key != key or not all(kept.rows.values()):
        return None
    return Shapes(rows=kept.rows)


def _read(file: Path) -> HostCertificate | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=HostCertificate)
    except (OSError, msgspec.MsgspecError):
        return None


def _write(file: Path, certificate: HostCertificate) -> None:
    making = file.with_name(f".{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        making.write_bytes(msgspec.json.format(msgspec.json.encode(certificate), indent=2) + b"\n")
        making.replace(file)
    except OSError as error:  # it is found out again at the next start
        _log.warning("the host certificate cannot be kept in %s: %s", file.parent, error.strerror)
        with suppress(OSError):
            making.unlink(missing_ok=True)
