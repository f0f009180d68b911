from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import DigestMismatch, PackageError
from onward.package.assembly import assemble
from onward.package.digest import LOCK_FILE, Lock, lock_of, lock_text, package_digest, package_files, read_lock
from onward.package.package import open_package

FILES = st.dictionaries(
    st.text("abc/._", min_size=1, max_size=8), st.binary(max_size=4).map(lambda data: hashlib.sha256(data).hexdigest())
)


@given(FILES, st.randoms())
def test_the_package_digest_does_not_depend_on_order(files: dict[str, str], random: object) -> None:
    shuffled = list(files.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert package_digest(dict(shuffled)) == package_digest(files)


@given(FILES, FILES)
def test_packages_with_different_files_have_different_digests(one: dict[str, str], other: dict[str, str]) -> None:
    assert (package_digest(one) == package_digest(other)) == (one == other)


def test_the_package_digest_is_sha256_over_sorted_lines() -> None:
    files = {"b": "22", "a": "11"}
    assert package_digest(files) == hashlib.sha256(b"a\x0011\nb\x0022\n").hexdigest()


def test_a_lock_reads_back_equal(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a b.txt").write_text("x")
    lock = lock_of(tmp_path, parity={"level": "bounded", "max_difference": {"y": 1e-7}})
    (tmp_path / LOCK_FILE).write_text(lock_text(lock))
    assert read_lock(tmp_path) == lock
    assert list(lock.files) == ["sub/a b.txt"]


def test_a_changed_file_is_named(tmp_path: Path, models: ModuleType) -> None:
    folder = models.linear_folder(tmp_path / "p")
    assemble(folder)
    data = bytearray((folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(DigestMismatch, match=r'"model\.onnx" has changed'):
        open_package(folder)


def test_an_extra_file_is_named(tmp_path: Path, models: ModuleType) -> None:
    folder = models.linear_folder(tmp_path / "p")
    assemble(folder)
    (folder / "more.txt").write_text("x")
    with pytest.raises(DigestMismatch, match=r'"more.txt" is not in the lock'):
        open_package(folder)


def test_a_missing_file_is_named(tmp_path: Path, models: ModuleType) -> None:
    folder = models.linear_folder(tmp_path / "p")
    assemble(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(DigestMismatch, match=r'"model.onnx" is missing'):
        open_package(folder)


def test_a_lock_whose_digest_does_not_fit_its_files_is_refused(tmp_path: Path, models: ModuleType) -> None:
    folder = models.linear_folder(tmp_path / "p")
    assemble(folder)
    lock = read_lock(folder)
    (folder / LOCK_FILE).write_text(lock_text(Lock(digest="0" * 64, files=lock.files)))
    with pytest.raises(DigestMismatch, match="does not fit"):
        open_package(folder)


@pytest.mark.parametrize("text", ["format = 2\n", "format = 1\n", "format = 1\nfiles = 3\n", "[[", "\xff"])
def test_a_lock_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(PackageError):
        read_lock(tmp_path)


def test_hidden_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(PackageError, match="may not be in a package"):
        package_files(tmp_path)


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "passwords").symlink_to("/etc/passwd")
    with pytest.raises(PackageError, match="not a plain file"):
        package_files(tmp_path)


def test_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    for name in ("Model.onnx", "model.onnx"):
        (tmp_path / name).write_text("x")
    if len(list(tmp_path.iterdir())) == 2:
        with pytest.raises(PackageError, match="one file on some systems"):
            package_files(tmp_path)
