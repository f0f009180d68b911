"""The `.onward` archive: a package in one file, for transport only.

Packing is deterministic: equal packages give equal bytes. Unpacking trusts nothing: names, sizes and kinds are
checked before anything is written, contents are hashed while they are written, and the folder appears in the cache
in one rename. Packages run from the unpacked folder, never from the archive.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from onward.errors import DigestMismatch, PackageError
from onward.package.attestation import MAX_BYTES as MAX_SIGNATURE_BYTES
from onward.package.digest import (
    LOCK_FILE,
    MAX_FILES,
    MAX_LOCK_BYTES,
    SIGNATURE_FILE,
    Lock,
    package_files,
    read_lock,
    verify_folder,
)
from onward.package.sections import is_inner_path
from onward.package.trust import read_trusted_lock

SUFFIX = ".onward"
MAX_UNPACKED_BYTES = 64 << 30
MAX_RATIO = 200
"""Bytes unpacked per byte of archive. Deflate of real weights stays below 20; bombs are near 1,000."""
MAX_DIRECTORY_BYTES = MAX_FILES * 640
"""Of the list of entries at an archive's end: what MAX_FILES of the longest names take."""

_END, _END_BYTES = b"PK\x05\x06", 22
_END64_PLACE, _END64_PLACE_BYTES = b"PK\x06\x07", 20
_END64, _END64_BYTES = b"PK\x06\x06", 56
_LOCAL_HEADER_BYTES = 30
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, OverflowError, RuntimeError, EOFError,
)  # fmt: skip
_CHUNK_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)


def is_archive(path: Path) -> bool:
    """Whether the file is an Onward archive by its name and first bytes."""
    if path.suffix != SUFFIX or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def write_archive(folder: Path, out: Path) -> Path:
    """Write a verified package folder as an archive, atomically; equal packages give equal bytes.

    Raises `DigestMismatch` where the folder is not what its lock says.
    """
    verify_folder(folder, read_lock(folder))
    handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
            apart = {name: folder / name for name in (LOCK_FILE, SIGNATURE_FILE) if (folder / name).is_file()}
            for path, file in {**apart, **package_files(folder)}.items():
                entry = zipfile.ZipInfo(path, date_time=_EPOCH)
                entry.create_system = 3  # Unix, on every system: the bytes must not depend on where they were made
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                # Weights barely shrink, and stored bytes do not depend on which zlib is in use.
                entry.compress_type = zipfile.ZIP_STORED
                with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return out


def cache_folder() -> Path:
    """Where archives are unpacked: `$ONWARD_CACHE`, else `onward` in the user's cache folder."""
    if named := os.environ.get("ONWARD_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onward"


def unpack(archive: Path, cache: Path | None = None, *, signed: bool = True) -> Path:
    """Unpack an archive into the cache by its package digest and return the folder.

    A folder that is already there is verified and used again. With `signed`, the policy on signatures is kept, before
    anything is unpacked. Raises `PackageError` for anything that does not belong in a package (paths that leave it,
    links, bombs), `DigestMismatch` for contents the lock does not name, and `NotSigned` or `SignatureRefused`.
    """
    packages = (cache or cache_folder()) / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=packages))
    try:
        _check_directory(archive)
        with zipfile.ZipFile(archive) as opened:
            entries = _checked_entries(opened, archive)
            for name, limit_bytes in ((LOCK_FILE, MAX_LOCK_BYTES), (SIGNATURE_FILE, MAX_SIGNATURE_BYTES)):
                if name in entries:
                    _extract(opened, entries[name], temporary / name, limit_bytes)
            lock = read_trusted_lock(temporary) if signed else read_lock(temporary)
            folder = packages / _cached_name(temporary, lock)
            if _is_verified(folder, lock):
                return folder
            _extract_files(opened, entries, lock, temporary, archive)
        return _settle(temporary, folder, lock)
    except _UNREADABLE as error:
        raise PackageError(
            f"not a readable archive: {error}", where=str(archive), expected="a .onward archive"
        ) from None
    except OSError as error:
        raise PackageError(f"cannot be unpacked: {error.strerror or error}", where=str(archive)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _cached_name(folder: Path, lock: Lock) -> str:
    """The package digest; of a signed package, with what tells apart who signed it, and which lock."""
    if not (folder / SIGNATURE_FILE).is_file():
        return lock.digest
    signed = hashlib.sha256((folder / LOCK_FILE).read_bytes() + (folder / SIGNATURE_FILE).read_bytes())
    return f"{lock.digest}-{signed.hexdigest()[:16]}"


def _check_directory(archive: Path) -> None:
    """Refuse an archive whose list of entries is longer than a package's can be, before `zipfile` reads all of it."""
    size = archive.stat().st_size
    with archive.open("rb") as stream:
        stream.seek(max(size - _END_BYTES - _END64_PLACE_BYTES, 0))
        tail = stream.read()
        end = tail[-_END_BYTES:]
        if len(end) < _END_BYTES or not end.startswith(_END) or end[-2:] != b"\0\0":
            raise PackageError(
                "not a readable archive: it does not end as one", where=str(archive), expected="a zip without a comment"
            )
        length = int.from_bytes(end[12:16], "little")
        place = tail[:-_END_BYTES]
        if place.startswith(_END64_PLACE):
            stream.seek(min(int.from_bytes(place[8:16], "little"), size))
            end64 = stream.read(_END64_BYTES)
            if len(end64) < _END64_BYTES or not end64.startswith(_END64):
                raise PackageError("not a readable archive: it does not end as one", where=str(archive))
            length = int.from_bytes(end64[40:48], "little")
    if length > MAX_DIRECTORY_BYTES:
        expected = f"a list of entries of at most {MAX_DIRECTORY_BYTES} bytes"
        raise PackageError("too many files", where=str(archive), expected=expected, found=f"{length} bytes")


def _check_apart(entries: Iterable[zipfile.ZipInfo], archive: Path) -> None:
    """Refuse entries that share bytes: a bomb is made of a few bytes that many entries unpack."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    for entry, after in itertools.pairwise(ordered):
        end = entry.header_offset + _LOCAL_HEADER_BYTES + len(entry.orig_filename.encode()) + entry.compress_size
        if end > after.header_offset:
            shown = f'"{entry.filename}" and "{after.filename}" overlap'
            raise PackageError(shown, where=str(archive), expected="bytes of their own for every file")


def _checked_entries(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    where = str(archive)
    entries: dict[str, zipfile.ZipInfo] = {}
    if len(opened.infolist()) > MAX_FILES:
        raise PackageError("too many files", where=where, expected=f"at most {MAX_FILES}")
    for entry in opened.infolist():
        if not entry.filename:
            raise PackageError("a file without a name", where=where, expected="paths inside the package")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir() or kind not in (0, stat.S_IFREG) or entry.flag_bits & 0x1:
            raise PackageError(f'"{entry.filename}" is not a plain file', where=where, expected="plain files only")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            expected, found = "stored or deflated entries", f"method {entry.compress_type}"
            raise PackageError(
                f'"{entry.filename}" is compressed otherwise', where=where, expected=expected, found=found
            )
        if not is_inner_path(entry.orig_filename) or entry.filename != entry.orig_filename:
            expected = "paths inside the package"
            raise PackageError(f'"{entry.filename}" may not be in a package', where=where, expected=expected)
        if entry.filename in entries:
            raise PackageError(f'"{entry.filename}" is there twice', where=where)
        entries[entry.filename] = entry
    folders = {str(folder) for path in entries for folder in PurePosixPath(path).parents}
    if both := sorted(folders & entries.keys()):
        raise PackageError(f'"{both[0]}" is a file and a folder', where=where, expected="one of them")
    size = sum(entry.file_size for entry in entries.values())
    if size > min(MAX_UNPACKED_BYTES, MAX_RATIO * archive.stat().st_size):
        expected = f"at most {MAX_UNPACKED_BYTES} bytes, and {MAX_RATIO} times the archive's size"
        raise PackageError("unpacks to too much", where=where, expected=expected, found=f"{size} bytes")
    _check_apart(entries.values(), archive)
    if LOCK_FILE not in entries:
        raise PackageError("not an archive of a package", where=where, expected=f"a {LOCK_FILE} in it")
    return entries


def _extract_files(
    opened: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], lock: Lock, target: Path, archive: Path
) -> None:
    differing = sorted((entries.keys() - {SIGNATURE_FILE}) ^ (lock.files.keys() | {LOCK_FILE}))
    if differing:
        expected = f"the files that {LOCK_FILE} lists"
        raise DigestMismatch(f'"{differing[0]}" is missing or extra', where=str(archive), expected=expected)
    for path, digest in lock.files.items():
        if _extract(opened, entries[path], target / path, entries[path].file_size) != digest:
            raise DigestMismatch(f'"{path}" has changed', where=str(archive), expected=f"SHA-256 {digest}")


def _extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, limit_bytes: int) -> str:
    """Write one entry and return its SHA-256. A header that lies about the size ends the copy at the limit."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), limit_bytes
    with opened.open(entry) as source, target.open("xb") as sink:
        while chunk := source.read(_CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise PackageError(f'"{entry.filename}" is larger than it says', where=str(opened.filename))
            digest.update(chunk)
            sink.write(chunk)
    return digest.hexdigest()


def _is_verified(folder: Path, lock: Lock) -> bool:
    if not folder.is_dir():
        return False
    try:
        verify_folder(folder, lock)
    except PackageError:
        return False
    return True


def _settle(temporary: Path, folder: Path, lock: Lock) -> Path:
    """Rename the unpacked folder to its place; where another process was first, theirs is as good if it verifies."""
    for _ in range(2):
        try:
            temporary.rename(folder)
            folder.chmod(0o755)
            return folder
        except OSError:
            if _is_verified(folder, lock):
                return folder
            damaged = Path(tempfile.mkdtemp(prefix=".damaged-", dir=folder.parent))
            folder.rename(damaged / folder.name)
            shutil.rmtree(damaged, ignore_errors=True)
    raise PackageError("another process keeps changing the cache", where=str(folder))
