"""Shared weights lie in a folder for as long as somebody uses it, and not for long after that."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from pathlib import Path

import pytest

from onward.runners.serve.workers.weights_folder import WeightsFolder, new_folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_of_a_server_that_was_killed_is_gone_once_the_next_one_starts(place: Path) -> None:
    stale = place / "onward-weights-stale"
    (stale / "model").mkdir(parents=True)
    (stale / "model" / "weights.bin").write_bytes(b"x")
    used = new_folder()
    assert used is not None and list(place.iterdir()) == [used.path]
    used.remove()
    used.remove()
    assert list(place.iterdir()) == []


def test_a_folder_that_a_worker_still_uses_stays_although_its_supervisor_is_gone(place: Path) -> None:
    made = new_folder()
    assert made is not None
    worker = WeightsFolder(made.path)
    os.close(made._held)  # as the kernel does for who is killed
    made._held = -1
    other = new_folder()
    assert other is not None and {*place.iterdir()} == {made.path, other.path}
    worker.remove()
    other.remove()


def test_folders_of_other_users_and_links_are_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, target = place / "onward-weights-theirs", place / "elsewhere"
    theirs.mkdir()
    target.mkdir()
    (place / "onward-weights-link").symlink_to(target)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(theirs).st_uid + 1)
    made = new_folder()
    assert made is not None and theirs.is_dir() and target.is_dir()
    made.remove()


def test_who_waits_for_a_folder_that_is_being_removed_does_not_use_it(place: Path) -> None:
    folder = place / "onward-weights-old"
    folder.mkdir()
    removing = os.open(folder, os.O_RDONLY)
    fcntl.flock(removing, fcntl.LOCK_EX)

    def remove() -> None:
        folder.rmdir()
        os.close(removing)

    later = threading.Timer(0.1, remove)
    later.start()
    with pytest.raises(FileNotFoundError):
        WeightsFolder(folder)
    later.join()


def test_where_no_folder_can_be_made_each_worker_has_weights_of_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place / "nowhere"))
    assert new_folder() is None
