"""The two JavaScript libraries that a bundle runs on: fetched once by npm, of one version each, checked, and cached."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onward.errors import DigestMismatch, MissingExtra, Unavailable
from onward.package.archive import cache_folder

_FETCH_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """An npm package: `integrity` is the SHA-512 of its archive, as npm's lock files write it."""

    name: str
    version: str
    licence: str
    integrity: str


ONNXRUNTIME = Library(
    name="onnxruntime-web", version="1.30.0", licence="MIT",
    integrity="q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)  # fmt: skip
TOKENIZERS = Library(
    name="@huggingface/tokenizers", version="0.2.0", licence="Apache-2.0",
    integrity="LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
)  # fmt: skip


def library(wanted: Library, *, progress: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a library's files, fetched where the cache does not have it.

    Raises `MissingExtra` where there is no npm, `Unavailable` where npm cannot fetch it, and `DigestMismatch` where
    what comes is something else.
    """
    cache = cache_folder() / "npm"
    folder = cache / f"{wanted.name.replace('/', '-').lstrip('@')}-{wanted.version}"
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise MissingExtra(
            f"{wanted.name} {wanted.version} has to be fetched once, and there is no npm", where="--target web",
            expected=f"npm (Debian's package `npm`), or the library's files in {folder}",
        )  # fmt: skip
    progress(f"fetching {wanted.name} {wanted.version}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as making:
        archive = _fetched(npm, wanted, Path(making))
        _check(archive, wanted)
        with tarfile.open(archive) as tar:
            tar.extractall(making, filter="data")
        try:
            (Path(making) / "package").rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def _fetched(npm: str, wanted: Library, into: Path) -> Path:
    argv = [npm, "pack", f"{wanted.name}@{wanted.version}", "--ignore-scripts", "--pack-destination", str(into)]
    try:
        made = subprocess.run(
            argv, cwd=into, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_FETCH_S, check=False
        )
        said = made.stderr.strip()[-500:]
    except subprocess.TimeoutExpired:
        said = f"nothing after {_FETCH_S} s"
    archives = list(into.glob("*.tgz"))
    if len(archives) != 1:
        raise Unavailable(f"npm cannot fetch {wanted.name} {wanted.version}", where="--target web", found=said)
    return archives[0]


def _check(archive: Path, wanted: Library) -> None:
    with archive.open("rb") as stream:
        found = base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()
    if found != wanted.integrity:
        raise DigestMismatch(
            where=f"{wanted.name} {wanted.version}", expected=f"SHA-512 {wanted.integrity}", found=found
        )
