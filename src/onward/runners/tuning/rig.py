"""A server with one setting, in a process of its own, and the load that is put on it over loopback."""

from __future__ import annotations

import asyncio
import itertools
import os
import selectors
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import msgspec

from onward.errors import DigestMismatch, UsageError
from onward.package.assembly import assemble
from onward.package.digest import LOCK_FILE, package_files, read_lock, verify_folder
from onward.package.manifest import MANIFEST_FILE
from onward.package.package import Package
from onward.package.trust import read_trusted_lock
from onward.runners.agreement.inputs import as_json, inputs_of
from onward.runners.endpoints.endpoint import Endpoint
from onward.runners.endpoints.recorded import Recorded, read_requests
from onward.runners.load.connection import Client, Place, Reply
from onward.runners.load.loops import closed, opened
from onward.runners.load.server import local_server
from onward.runners.tuning.manifest_edit import changed
from onward.runners.tuning.trial import Point, Setting

_TOGETHER = 64
_CONNECTIONS = 256
_TIMEOUT_S = 30.0
_INPUTS = 64
_BEHIND_SHARE = 0.15  # less than one step of the search's rates
_LOOK_S = 0.02  # how closely the end of a look is seen


class LoopbackRig:
    """See `onward.runners.tuning.search.Rig`: requests that the package answers, sent to a server that is ready."""

    def __init__(self, runner: asyncio.Runner, place: Place, messages: Sequence[bytes], *, bound_ms: float) -> None:
        self._runner = runner
        self._client = Client(place, timeout_s=_TIMEOUT_S)
        self._messages = messages
        self._bound_s = bound_ms / 1e3
        self._seed = itertools.count(1)

    def capacity(self, seconds: float) -> float:
        """Answers a second with 64 callers who wait for theirs."""
        messages = itertools.cycle(self._messages)
        return self._runner.run(closed(self._client, messages, together=_TOGETHER, seconds=seconds)).per_s

    def at_rate(self, per_s: float, seconds: float) -> Point:
        """What callers meet who come at random times and do not wait for each other."""
        seen = self._runner.run(
            opened(self._client, self._messages, per_s=per_s, seconds=seconds, connections=_CONNECTIONS,
                   seed=next(self._seed))
        )  # fmt: skip
        # Beyond the throughput, answers fall behind by as much as the rate is beyond it, for as long as it lasts.
        behind_s = seen.elapsed_s - seconds - min(seen.latencies_s, default=0.0)
        good = sum(one <= self._bound_s for one in seen.latencies_s)
        return Point(
            offered_per_s=round(per_s, 3), p50_ms=round(seen.quantile_s(0.5) * 1e3, 4),
            p99_ms=round(seen.quantile_s(0.99) * 1e3, 4), goodput_per_s=round(good / seconds, 2),
            failures=sum(seen.failures.values()), requests=seen.offered, late_ms=round(seen.late_s * 1e3, 4),
            sustained=behind_s <= _BEHIND_SHARE * seconds + _LOOK_S,
        )  # fmt: skip

    def keep_answered(self) -> None:
        """Keep the requests that are answered with 2xx. Raises `UsageError` where there are none."""

        async def ask() -> list[Reply]:
            return [await self._client.ask(one) for one in self._messages]

        replies = self._runner.run(ask())
        pairs = zip(self._messages, replies, strict=True)
        self._messages = [one for one, reply in pairs if 200 <= reply.status < 300]
        if not self._messages:
            found = f"status {replies[0].status}: {replies[0].body[:200].decode('utf-8', 'replace')}"
            raise UsageError(
                "no request is answered", where="--requests", expected="requests that it takes", found=found
            )

    def close(self) -> None:
        """End the connections."""

        async def end() -> None:
            self._client.close()
            await asyncio.sleep(0)

        self._runner.run(end())


class Bench:
    """Makes rigs: copies of a package with one setting each, in a folder that is removed at the end."""

    def __init__(self, package: Package, requests: Path | None, *, bound_ms: float) -> None:
        """`requests` are those to send, else the golden inputs and others made of them. Raises `PackageError`."""
        self._package = package
        self._bound_ms = bound_ms
        self._requests = read_requests(requests) if requests is not None else _made(package)
        # Waits of less than a millisecond, which the usual selector rounds up.
        self._runner = asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()))

    @contextmanager
    def rig(self, setting: Setting) -> Iterator[LoopbackRig]:
        """A warm server with a setting, until the end of the block. Raises `ExecutionError` or `UsageError`."""
        with tempfile.TemporaryDirectory(prefix="onward-tune-") as made:
            place = Path(made)
            copy_with(self._package, place / "package", values_of(setting), link=True)
            with local_server(place / "package", place, verified=True) as server:
                at = Place(host="127.0.0.1", port=server.port, tls=False, path="")
                rig = LoopbackRig(self._runner, at, self._messages(at, server.name), bound_ms=self._bound_ms)
                try:
                    rig.keep_answered()
                    yield rig
                finally:
                    rig.close()

    def _messages(self, at: Place, name: str) -> list[bytes]:
        async def make() -> list[bytes]:
            client = Client(at, timeout_s=_TIMEOUT_S)
            made = []
            for one in self._requests:
                path = f"/v2/models/{name}/infer" if one.is_v2 else f"/models/{name}"
                endpoint = Endpoint(label="", place=at._replace(path=path))
                made.append(await endpoint.message(one, client))
            return made

        return self._runner.run(make())

    def close(self) -> None:
        """End the loop."""
        self._runner.close()


def values_of(setting: Setting) -> dict[str, int | str]:
    """A setting as values of the manifest."""
    return {
        "batching.max_batch_size": setting.max_batch_size, "execute.instances": setting.instances,
        "execute.threads": setting.threads,
    }  # fmt: skip


def copy_with(
    package: Package, target: Path, values: dict[str, int | str], extra: Mapping[str, bytes] = MappingProxyType({}), *,
    link: bool,
) -> Package:  # fmt: skip
    """A package that was opened and verified once more, with other values in its manifest and some more files.

    With `link` its files are the same on disk, which is quick, and for copies that nobody keeps. Raises
    `DigestMismatch` where its folder is no longer what it was: what is there now gets no lock.
    """
    lock = read_trusted_lock(package.folder)
    if lock.digest != package.id.digest:
        raise DigestMismatch(f"{LOCK_FILE} has changed since the package was opened", where=str(package.folder))
    verify_folder(package.folder, lock)  # before anything reads what is there
    target.mkdir(parents=True)
    for path, file in package_files(package.folder).items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path == MANIFEST_FILE:
            place.write_bytes(changed(file.read_bytes().decode("utf-8"), values).encode("utf-8"))
        elif path not in extra:
            _copy(file, place, link=link)
    for path, contents in extra.items():
        (target / path).write_bytes(contents)
    made = assemble(target, parity=lock.parity)
    found = read_lock(target).files
    for path in sorted((found.keys() | lock.files.keys()) - {MANIFEST_FILE, *extra}):
        if found.get(path) != lock.files.get(path):  # changed while it was copied
            (target / LOCK_FILE).unlink()
            raise DigestMismatch(f'"{path}" has changed', where=str(package.folder))
    return made


def _copy(file: Path, place: Path, *, link: bool) -> None:
    if link:
        try:
            os.link(file, place)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    shutil.copyfile(file, place)


def _made(package: Package) -> list[Recorded]:
    items = inputs_of(package, _INPUTS)
    values = msgspec.json.decode(msgspec.json.encode([as_json(item) for item in items]))
    return [Recorded(line=line, value=value) for line, value in enumerate(values, 1)]
