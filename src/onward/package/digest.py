"""What a package is, as a number: SHA-256 of every file, and one digest over them all.

The package digest is SHA-256 over the lines `path NUL sha256 LF`, sorted by path, of every file but `onward.lock` and
`onward.sig`, and, for a package made of others, over the lines `NUL name==version NUL digest LF` of those, sorted, too.
It depends on paths and contents only: not on times, owners, modes, or the order in which a disk lists files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onward.errors import DigestMismatch, PackageError
from onward.package.manifest_text import toml_value
from onward.package.reading import read_plain
from onward.package.sections import is_inner_path
from onward.package.toml_text import load_toml

LOCK_FILE = "onward.lock"
SIGNATURE_FILE = "onward.sig"
LOCK_FORMAT = 1
MAX_FILES = 10_000
MAX_FOLDERS = 1000
MAX_LOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """`onward.lock`: the SHA-256 (hex) of every other file, the package digest, and portable parity bounds.

    `stages` are the digests of the packages that this one is made of, by `name==version`.
    """

    digest: str
    files: Mapping[str, str]
    stages: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def package_digest(files: Mapping[str, str], stages: Mapping[str, str] | None = None) -> str:
    """The package digest, in hex, of files given as path → SHA-256 in hex, and stages as `name==version` → digest."""
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{path}\0{files[path]}\n".encode())
    for name, digest in sorted((stages or {}).items()):
        whole.update(f"\0{name}\0{digest}\n".encode())
    return whole.hexdigest()


def package_files(folder: Path) -> dict[str, Path]:
    """Every file of a package but `onward.lock` and `onward.sig`, by its path inside the package, sorted.

    Raises `PackageError` for links, devices and names that may not be in a package (hidden, or not portable).
    """
    found: dict[str, Path] = {}
    for path, file in _walk(folder):
        found[path] = file
        if len(found) > MAX_FILES:
            raise PackageError("too many files", where=str(folder), expected=f"at most {MAX_FILES}")
    found = dict(sorted(found.items()))
    folded: dict[str, str] = {}
    for path in found:
        other = folded.setdefault(path.casefold(), path)
        if other != path:
            expected = "names that differ by more than upper and lower case"
            raise PackageError(
                f'"{other}" and "{path}" are one file on some systems', where=str(folder), expected=expected
            )
    for apart in (LOCK_FILE, SIGNATURE_FILE):
        found.pop(apart, None)
    return found


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    waiting = [("", folder)]
    seen = 0
    while waiting:
        prefix, inner = waiting.pop()
        with os.scandir(inner) as entries:
            for entry in entries:
                seen += 1
                path = f"{prefix}{entry.name}"
                if seen > MAX_FILES + MAX_FOLDERS:
                    expected = f"at most {MAX_FILES} files in {MAX_FOLDERS} folders"
                    raise PackageError("too many files", where=str(folder), expected=expected)
                if not is_inner_path(path):
                    expected = "visible files with portable names, and nothing else, in a package"
                    raise PackageError(
                        "this name may not be in a package", where=f"{inner}/{entry.name}", expected=expected
                    )
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.is_symlink() or not (is_folder or entry.is_file(follow_symlinks=False)):
                    expected = "plain files and folders, no links or devices"
                    raise PackageError("not a plain file", where=f"{inner}/{entry.name}", expected=expected)
                if is_folder:
                    waiting.append((f"{path}/", Path(entry.path)))
                else:
                    yield path, Path(entry.path)


def lock_of(folder: Path, *, parity: Mapping[str, Any] | None = None, stages: Mapping[str, str] | None = None) -> Lock:
    """Hash every file of a package folder; `stages` are the digests of the packages that it is made of."""
    files = {path: file_digest(file) for path, file in package_files(folder).items()}
    pins = stages or {}
    return Lock(digest=package_digest(files, pins), files=files, stages=pins, parity=parity or {})


def verify_folder(folder: Path, lock: Lock) -> None:
    """Compare a folder with its lock; raises `DigestMismatch` naming each missing, extra or changed file."""
    found = package_files(folder)
    wrong = [f'"{path}" is missing' for path in sorted(lock.files.keys() - found.keys())]
    wrong += [f'"{path}" is not in the lock' for path in sorted(found.keys() - lock.files.keys())]
    if not wrong:  # hash only what can still be right: a folder of other files is refused at once
        wrong = [f'"{path}" has changed' for path, file in found.items() if file_digest(file) != lock.files[path]]
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise DigestMismatch(shown, where=str(folder), expected=f"the files that {LOCK_FILE} lists, unchanged")


def lock_text(lock: Lock) -> str:
    """A lock as TOML."""
    lines = [
        "# Written by onward when the package was packed. Any change to a file makes the package invalid.",
        f"format = {LOCK_FORMAT}",
        f'digest = "{lock.digest}"',
        "\n[files]",
        *(f"{toml_value(path)} = {toml_value(lock.files[path])}" for path in sorted(lock.files)),
    ]
    if lock.stages:
        pins = (f"{toml_value(name)} = {toml_value(digest)}" for name, digest in sorted(lock.stages.items()))
        lines += ["\n[stages]", *pins]
    if lock.parity:
        lines += ["\n[parity]", *(f"{toml_value(key)} = {toml_value(value)}" for key, value in lock.parity.items())]
    return "\n".join(lines) + "\n"


def read_lock(folder: Path) -> Lock:
    """Read and check `onward.lock`; raises `PackageError` where there is none, `DigestMismatch` where it is forged."""
    return parse_lock(read_lock_bytes(folder), folder)


def read_lock_bytes(folder: Path) -> bytes:
    """`onward.lock` as it is; raises `PackageError` where there is none, or something else in its place."""
    file = folder / LOCK_FILE
    try:
        return read_plain(file, MAX_LOCK_BYTES)
    except FileNotFoundError:
        expected = f"a {LOCK_FILE}: pack the folder first"
        raise PackageError("not a packed package", where=str(folder), expected=expected) from None
    except OSError as error:
        raise PackageError(f"cannot be read: {error}", where=str(file)) from None


def parse_lock(data: bytes, folder: Path) -> Lock:
    """A lock from its bytes; raises `PackageError` where it is none, `DigestMismatch` where it is forged."""
    file = folder / LOCK_FILE
    try:
        values = load_toml(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PackageError(f"cannot be read: {error}", where=str(file), expected="TOML in UTF-8") from None
    files, digest, parity = values.get("files"), values.get("digest"), values.get("parity", {})
    stages = values.get("stages", {})
    if values.get("format") != LOCK_FORMAT:
        raise PackageError(
            "not a format this version of Onward reads", where=str(file), expected=f"format = {LOCK_FORMAT}"
        )
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise PackageError("no [files]", where=str(file), expected='[files] with "path" = "sha256" lines')
    if not isinstance(stages, dict) or not all(isinstance(value, str) for value in stages.values()):
        expected = '[stages] with "name==version" = "digest" lines'
        raise PackageError("stages are not a table of digests", where=str(file), expected=expected)
    if not isinstance(parity, dict):
        raise PackageError("parity is not a table", where=str(file), expected="[parity]")
    if digest != package_digest(files, stages):
        raise DigestMismatch("the package digest does not fit what is listed", where=str(file))
    return Lock(digest=digest, files=files, stages=stages, parity=parity)
