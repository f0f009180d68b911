"""Libraries are fetched once, by the version and the digest that are written down, or the person is told why not."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from onward.errors import DigestMismatch, MissingExtra, Unavailable
from onward.runners.edge.web.npm import Library, library


def archive_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


ARCHIVE = archive_of({"package/dist/x.mjs": b"export const x = 1;\n"})
WANTED = Library(
    name="@some/thing", version="1.2.3", licence="MIT",
    integrity=base64.b64encode(hashlib.sha512(ARCHIVE).digest()).decode(),
)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "npm"


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that gives the archive beside it, and counts how often it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "archive").write_bytes(ARCHIVE)
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\necho $@ >> {folder}/asked\ncp {folder}/archive thing.tgz\n", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_a_library_is_fetched_once_and_then_taken_from_the_cache(cache: Path, npm: Path) -> None:
    for _ in range(2):
        assert (library(WANTED) / "dist" / "x.mjs").read_text("utf-8") == "export const x = 1;\n"
    asked = (npm / "asked").read_text("utf-8").splitlines()
    assert len(asked) == 1
    assert asked[0].startswith("pack @some/thing@1.2.3 --ignore-scripts")
    assert [path.name for path in cache.iterdir()] == ["some-thing-1.2.3"]


def test_another_archive_than_the_one_written_down_is_refused(cache: Path, npm: Path) -> None:
    (npm / "archive").write_bytes(archive_of({"package/dist/x.mjs": b"evil"}))
    with pytest.raises(DigestMismatch, match=r"@some/thing 1\.2\.3"):
        library(WANTED)
    assert list(cache.iterdir()) == []


def test_where_npm_fails_its_words_are_told(cache: Path, npm: Path) -> None:
    (npm / "npm").write_text("#!/bin/sh\necho no such version >&2\nexit 1\n", "utf-8")
    with pytest.raises(Unavailable, match="no such version"):
        library(WANTED)
    assert list(cache.iterdir()) == []


def test_without_npm_it_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="Debian's package `npm`"):
        library(WANTED)
    assert not cache.exists()
