"""The repository: packages on disk as `<root>/<name>/<version>/`.

Names and versions are identifiers, never paths: what does not look like one is not found. A new version appears in
one rename, so a reader never sees half of it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from onward.errors import ModelNotFound, PackageError
from onward.package.archive import unpack
from onward.package.digest import LOCK_FILE, read_lock, verify_folder
from onward.package.manifest import MANIFEST_FILE, is_name, is_version, load_manifest
from onward.package.sections import suggestion
from onward.package.trust import read_trusted_lock


class Repository:
    """The packages under a folder.

    A package folder or `.onward` archive itself is a repository of one package, the folder of a package's versions
    (`<root>/<name>`) a repository of one name. Raises `PackageError` or `DigestMismatch` where a single package is
    not what its lock says, or the folder of versions is not called as a package can be.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._single: tuple[str, str, Path] | None = None
        self._only = ""
        if self.root.is_file():
            self._open_single(unpack(self.root))  # verified while it was unpacked
        elif any((self.root / file).is_file() for file in (LOCK_FILE, MANIFEST_FILE)):
            verify_folder(self.root, read_trusted_lock(self.root))
            self._open_single(self.root)
        elif _version_folders(self.root):
            folder = self.root.resolve()
            if not is_name(folder.name):
                expected = "the repository's folder, or a folder of versions with the name of its package"
                raise PackageError("versions, but of no name", where=str(root), expected=expected)
            self.root, self._only = folder.parent, folder.name

    def _open_single(self, folder: Path) -> None:
        package = load_manifest(folder).package
        self._single = (package.name, package.version, folder)

    def names(self) -> tuple[str, ...]:
        """The names of all packages, sorted."""
        if self._single:
            return (self._single[0],)
        if self._only:
            return (self._only,) if self._versions(self._only) else ()
        return tuple(sorted(name for name in _folders(self.root) if is_name(name) and self._versions(name)))

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a package, oldest first by their numbers; raises `ModelNotFound` where there is none."""
        found = self._versions(name)
        if not found:
            names = self.names()
            expected = f"one of {', '.join(names)}" if names else "a package in the repository, which is empty"
            raise ModelNotFound("no such model", expected=expected, found=f'"{name[:80]}"{suggestion(name, names)}')
        return found

    def path(self, name: str, version: str = "") -> Path:
        """The folder of a version, by default the newest; raises `ModelNotFound`."""
        versions = self.versions(name)
        version = version or versions[-1]
        if version not in versions:
            expected = f"one of {', '.join(versions)}"
            raise ModelNotFound(f'no such version of "{name}"', expected=expected, found=f'"{version[:80]}"')
        return self._single[2] if self._single else self.root / name / version

    def install(self, folder: Path, *, move: bool = False) -> Path:
        """Put a packed folder or archive in its place, verified, and return that place.

        Installing what is already there changes nothing; other contents under the same version raise `PackageError`,
        since a version never changes.
        """
        if self._single or self._only:
            raise PackageError("this is a single package", where=str(self.root), expected="a repository folder")
        source = unpack(folder) if folder.is_file() else folder
        lock = read_trusted_lock(source)
        verify_folder(source, lock)
        package = load_manifest(source).package
        place = self.root / package.name / package.version
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".installing-", dir=place.parent))
        try:
            staged = temporary / "package"
            if move and source == folder:
                shutil.move(source, staged)
            else:
                shutil.copytree(source, staged)
            verify_folder(staged, lock)  # what was copied, not what was read before: the source may have changed
            try:
                staged.rename(place)
            except OSError:
                if not place.is_dir() or read_lock(place).digest != lock.digest:
                    expected = "a new version number for new contents"
                    raise PackageError(
                        "this version is there with other contents", where=str(place), expected=expected
                    ) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return place

    def _versions(self, name: str) -> tuple[str, ...]:
        if self._single:
            return (self._single[1],) if name == self._single[0] else ()
        if not is_name(name) or (self._only and name != self._only):
            return ()
        return tuple(sorted(_version_folders(self.root / name), key=version_key))


def version_key(version: str) -> tuple[tuple[int, ...], str]:
    """What versions are sorted by: their numbers, so that 1.10 comes after 1.9."""
    return tuple(int(number) for number in version.split(".")), version


def _version_folders(folder: Path) -> list[str]:
    return [name for name in _folders(folder) if is_version(name) and (folder / name / MANIFEST_FILE).is_file()]


def _folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
