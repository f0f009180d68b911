"""The `.onward` archive: a package in one file, for transport only.

Packing is deterministic: equal packages give equal bytes. Unpacking trusts nothing: names, sizes and kinds are
checked before anything is written, contents are hashed while they are written, and the folder appears in the cache
in one rename. Packages run from the unpacked folder, never from the archive.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from onward.errors import DigestMismatch, PackageError
from onward.package.digest import LOCK_FILE, MAX_FILES, Lock, package_files, read_lock, verify_folder
from onward.package.sections import is_inner_path

SUFFIX = ".onward"
MAX_UNPACKED_BYTES = 64 << 30
MAX_RATIO = 200
"""Bytes unpacked per byte of archive. Deflate of real weights stays below 20; bombs are near 1,000."""
MAX_LOCK_BYTES = 4 << 20

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
            for path, file in {LOCK_FILE: folder / LOCK_FILE, **package_files(folder)}.items():
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


def unpack(archive: Path, cache: Path | None = None) -> Path:
    """Unpack an archive into the cache by its package digest and return the folder.

    A folder that is already there is verified and used again. Raises `PackageError` for anything that does not
    belong in a package (paths that leave it, links, bombs), `DigestMismatch` for contents the lock does not name.
    """
    packages = (cache or cache_folder()) / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=packages))
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked_entries(opened, archive)
            _extract(opened, entries[LOCK_FILE], temporary / LOCK_FILE, MAX_LOCK_BYTES)
            lock = read_lock(temporary)
            folder = packages / lock.digest
            if _is_verified(folder, lock):
                return folder
            _extract_files(opened, entries, lock, temporary, archive)
        return _settle(temporary, folder, lock)
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, NotImplementedError, RuntimeError, EOFError) as error:
        raise PackageError(
            f"not a readable archive: {error}", where=str(archive), expected="a .onward archive"
        ) from None
    except OSError as error:
        raise PackageError(f"cannot be unpacked: {error.strerror or error}", where=str(archive)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked_entries(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    where = str(archive)
    entries: dict[str, zipfile.ZipInfo] = {}
    if len(opened.infolist()) > MAX_FILES:
        raise PackageError("too many files", where=where, expected=f"at most {MAX_FILES}")
    for entry in opened.infolist():
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
    if LOCK_FILE not in entries:
        raise PackageError("not an archive of a package", where=where, expected=f"a {LOCK_FILE} in it")
    return entries


def _extract_files(
    opened: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], lock: Lock, target: Path, archive: Path
) -> None:
    differing = sorted(entries.keys() ^ (lock.files.keys() | {LOCK_FILE}))
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
