"""What is tuned is what was verified, and nothing else is given a lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from onward.errors import DigestMismatch, OnwardError
from onward.package.digest import lock_of, lock_text, read_lock, verify_folder
from onward.package.package import Package, open_package
from onward.package.trust import TRUST_VARIABLE, sign_folder
from onward.runners.tuning import rig
from onward.runners.tuning.rig import copy_with
from onward.testing import tiny_package
from tests.keys import key_pair

VALUES: dict[str, int | str] = {"batching.max_batch_size": 8}


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return open_package(tiny_package(tmp_path / "tiny"))


def test_a_copy_differs_in_its_manifest_and_what_is_added(package: Package, tmp_path: Path) -> None:
    made = copy_with(package, tmp_path / "out", VALUES, {"more.json": b"{}"}, link=False)
    assert made.manifest.batching.max_batch_size == 8
    before, after = read_lock(package.folder).files, read_lock(made.folder).files
    assert {path for path, _ in before.items() ^ after.items()} == {"onward.toml", "more.json"}
    open_package(made.folder)


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("path", ["model.onnx", "onward.toml", "more.txt"])
@pytest.mark.parametrize("relocked", [True, False])
def test_what_changed_since_it_was_opened_gets_no_lock(
    package: Package, tmp_path: Path, path: str, link: bool, relocked: bool
) -> None:
    other = tiny_package(tmp_path / "other", scale=3.0)
    now = (other / path).read_bytes() if path == "model.onnx" else b"" if path == "more.txt" else b"# changed\n"
    file = package.folder / path
    file.write_bytes(now + (file.read_bytes() if path == "onward.toml" else b""))
    if relocked:
        (package.folder / "onward.lock").write_text(lock_text(lock_of(package.folder)))
    with pytest.raises(DigestMismatch, match=r"has changed|not in the lock"):
        copy_with(package, tmp_path / "out", VALUES, link=link)
    assert not (tmp_path / "out" / "onward.lock").exists()


def test_what_changes_while_it_is_copied_gets_no_lock(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_package(tmp_path / "other", scale=3.0)

    def too_late(*arguments: object) -> None:
        verify_folder(*arguments)  # type: ignore[arg-type]
        (package.folder / "model.onnx").write_bytes((other / "model.onnx").read_bytes())

    monkeypatch.setattr(rig, "verify_folder", too_late)
    with pytest.raises(DigestMismatch, match="model"):
        copy_with(package, tmp_path / "out", VALUES, link=False)
    assert not (tmp_path / "out" / "onward.lock").exists()


def test_a_signature_that_is_gone_is_missed(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = key_pair(tmp_path)
    sign_folder(package.folder, keys.private)
    monkeypatch.setenv(TRUST_VARIABLE, str(keys.public))
    copy_with(package, tmp_path / "out", VALUES, link=False)
    (package.folder / "onward.sig").unlink()
    with pytest.raises(OnwardError, match="signed"):
        copy_with(package, tmp_path / "again", VALUES, link=False)
