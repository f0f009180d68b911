"""Durable writes: synced before they are named, and the old file stays where the new one fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onward.runners.batch.durable import publish, sync_file, sync_folder, write_whole


def test_a_file_is_synced_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fsync(descriptor: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((target.name, (tmp_path / "name").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(tmp_path / "name", b"whole")
    assert seen == [(".name.making", False), (tmp_path.name, True)]
    assert (tmp_path / "name").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "name").write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "name", b"new")
    assert (tmp_path / "name").read_bytes() == b"old"


def test_what_is_not_there_cannot_be_synced_or_published(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_file(tmp_path / "none")
    with pytest.raises(NotADirectoryError):
        (tmp_path / "file").write_text("")
        sync_folder(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "none", tmp_path / "name")
