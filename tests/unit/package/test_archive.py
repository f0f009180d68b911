from __future__ import annotations

import os
import random
import stat
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from onward.errors import DigestMismatch, PackageError
from onward.package.archive import unpack, write_archive
from onward.package.assembly import assemble
from onward.package.digest import Lock, lock_text, package_digest
from onward.package.package import open_package


def archive_of(path: Path, entries: dict[str, bytes], *, mode: int = stat.S_IFREG | 0o644) -> Path:
    """A hand-made archive; every entry but the lock gets `mode`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (mode if name != "onward.lock" else stat.S_IFREG) << 16
            archive.writestr(entry, data)
    return path


LOCK = lock_text(Lock(digest=package_digest({}), files={})).encode()


def test_equal_packages_give_equal_bytes_whatever_their_times(tmp_path: Path, models: ModuleType) -> None:
    folders = [models.linear_folder(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        assemble(folder)
    os.utime(folders[1] / "model.onnx", (1, 1))
    one, two = (write_archive(folder, tmp_path / f"{folder.name}.onward") for folder in folders)
    assert one.read_bytes() == two.read_bytes()


def test_an_archive_opens_as_the_package_it_was_made_of(tmp_path: Path, models: ModuleType) -> None:
    package = assemble(models.linear_folder(tmp_path / "p"))
    opened = open_package(write_archive(package.folder, tmp_path / "p.onward"))
    assert opened.id == package.id and opened.manifest == package.manifest
    assert opened.folder.name == package.id.digest
    assert (opened.folder / "model.onnx").read_bytes() == (package.folder / "model.onnx").read_bytes()


def test_a_damaged_cache_is_replaced(tmp_path: Path, models: ModuleType) -> None:
    package = assemble(models.linear_folder(tmp_path / "p"))
    archive = write_archive(package.folder, tmp_path / "p.onward")
    first = unpack(archive)
    (first / "model.onnx").write_bytes(b"damaged")
    assert unpack(archive) == first
    assert open_package(archive).id == package.id
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_a_changed_folder_is_not_archived(tmp_path: Path, models: ModuleType) -> None:
    package = assemble(models.linear_folder(tmp_path / "p"))
    (package.folder / "onward.toml").write_text("format = 1\n")
    with pytest.raises(DigestMismatch):
        write_archive(package.folder, tmp_path / "p.onward")
    assert not (tmp_path / "p.onward").exists()


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "a/../../evil", "a\\evil", "C:evil", ".hidden", "a/.b", "a//b", "./a", "a /b", "a."],
)
def test_a_path_that_leaves_the_package_is_refused(tmp_path: Path, name: str) -> None:
    archive = archive_of(tmp_path / "p.onward", {"onward.lock": LOCK, name: b"x"})
    with pytest.raises(PackageError, match="may not be in a package"):
        unpack(archive)
    assert not list(tmp_path.glob("**/evil"))


def test_a_link_is_refused(tmp_path: Path) -> None:
    entries = {"onward.lock": LOCK, "link": b"/etc/passwd"}
    archive = archive_of(tmp_path / "p.onward", entries, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(PackageError, match="not a plain file"):
        unpack(archive)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "p.onward", {"onward.lock": LOCK, "model.onnx": bytes(50 << 20)})
    with pytest.raises(PackageError, match="unpacks to too much"):
        unpack(archive)


def test_an_entry_given_twice_is_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "p.onward", {"onward.lock": LOCK})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("onward.lock", LOCK)
    with pytest.raises(PackageError, match="twice"):
        unpack(archive)


def test_an_entry_that_the_lock_does_not_list_is_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "p.onward", {"onward.lock": LOCK, "extra.txt": b"x"})
    with pytest.raises(DigestMismatch, match=r"extra.txt"):
        unpack(archive)


def test_contents_that_the_lock_does_not_name_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    files = {"a.txt": "0" * 64}
    lock = lock_text(Lock(digest=package_digest(files), files=files)).encode()
    archive = archive_of(tmp_path / "p.onward", {"onward.lock": lock, "a.txt": b"x"})
    with pytest.raises(DigestMismatch, match=r'"a\.txt" has changed'):
        unpack(archive)
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.onward").write_bytes(data)
    with pytest.raises(PackageError, match="not a readable archive"):
        open_package(tmp_path / "p.onward")


def test_an_archive_without_a_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="not an archive of a package"):
        unpack(archive_of(tmp_path / "p.onward", {"a.txt": b"x"}))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93])
def test_entries_are_stored_or_deflated_and_nothing_else(tmp_path: Path, method: int) -> None:
    archive = archive_of(tmp_path / "p.onward", {"onward.lock": LOCK})
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 10] = method
    archive.write_bytes(data)
    with pytest.raises(PackageError, match="compressed otherwise"):
        unpack(archive)


def test_a_name_that_is_a_file_and_a_folder_is_refused(tmp_path: Path) -> None:
    files = {"a": "0" * 64, "a/b": "0" * 64}
    lock = lock_text(Lock(digest=package_digest(files), files=files)).encode()
    with pytest.raises(PackageError, match='"a" is a file and a folder'):
        unpack(archive_of(tmp_path / "p.onward", {"onward.lock": lock, "a": b"x", "a/b": b"x"}))


def test_a_name_that_the_disk_does_not_take_is_a_package_error(tmp_path: Path) -> None:
    files = {"a" * 300: "0" * 64}
    lock = lock_text(Lock(digest=package_digest(files), files=files)).encode()
    with pytest.raises(PackageError, match="cannot be unpacked: File name too long"):
        unpack(archive_of(tmp_path / "p.onward", {"onward.lock": lock, "a" * 300: b"x"}))


def test_a_damaged_archive_unpacks_or_is_refused(tmp_path: Path, models: ModuleType) -> None:
    package = assemble(models.linear_folder(tmp_path / "p"))
    names = ["onward.lock", *(path.name for path in package.folder.iterdir() if path.name != "onward.lock")]
    archive = archive_of(tmp_path / "p.onward", {name: (package.folder / name).read_bytes() for name in names})
    whole, draw = archive.read_bytes(), random.Random(7)
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 4))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        archive.write_bytes(data)
        try:
            unpack(archive)
        except PackageError:
            refused += 1
    assert refused > 100


def test_a_list_of_more_entries_than_there_may_be_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.hostile.cases import archive_that_is_all_list

    archive = archive_that_is_all_list(tmp_path)

    def read(*_: object) -> None:
        pytest.fail("zipfile reads it, and makes an object of each")

    monkeypatch.setattr(zipfile, "ZipFile", read)
    with pytest.raises(PackageError, match="too many files"):
        unpack(archive)
