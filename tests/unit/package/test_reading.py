from __future__ import annotations

import os
from pathlib import Path

import pytest

from onward.errors import PackageError
from onward.package.reading import read_plain


def test_a_plain_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert read_plain(file, 5) == b"12345"
    with pytest.raises(PackageError, match="too large"):
        read_plain(file, 4)


def test_a_file_without_an_end_is_refused_at_the_limit() -> None:
    with pytest.raises(PackageError):
        read_plain(Path("/dev/zero"), 1 << 20)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(PackageError, match="plain file"):
        read_plain(tmp_path / "a", 10)


def test_a_link_is_followed_only_where_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to("a")
    assert read_plain(tmp_path / "link", 10, links=True) == b"1"
    with pytest.raises(PackageError, match="a link"):
        read_plain(tmp_path / "link", 10)


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "a", 10)
