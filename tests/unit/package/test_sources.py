"""Only what is allowed is asked for, only what was named is taken, and nothing half-fetched is ever found."""

from __future__ import annotations

import errno
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import (
    DigestMismatch,
    NotFound,
    OnwardError,
    SourceNotAllowed,
    SourceUnreachable,
    TooLarge,
    UsageError,
)
from onward.package import sources
from onward.package.archive import write_archive
from onward.package.package import open_package
from onward.package.sources import allowed_sources, fetch, is_source, parse_source
from onward.testing import tiny_package

DIGEST = "0" * 64


class Host(http.server.BaseHTTPRequestHandler):
    """Says what it is told to say, and remembers what it was asked."""

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path))  # type: ignore[attr-defined]
        self.server.says(self)  # type: ignore[attr-defined]

    do_HEAD = do_GET

    def log_message(self, format: str, *values: Any) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.asked = []  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def saying(data: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> Callable[[Any], None]:
    def says(request: Any) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)
        if length is not None:
            request.connection.close()

    return says


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    return write_archive(tiny_package(tmp_path / "tiny"), tmp_path / "tiny.onward").read_bytes()


def named(host: Any, data: bytes) -> str:
    return f"{host.url}/models/tiny.onward#sha256={hashlib.sha256(data).hexdigest()}"


def test_an_archive_is_fetched_once_and_is_the_package(host: Any, archive: bytes, tmp_path: Path) -> None:
    host.says = saying(archive)
    allowed = allowed_sources(f"{host.url}/models/")
    for _ in range(2):
        file = fetch(named(host, archive), allowed=allowed, cache=tmp_path / "cache")
        assert file.read_bytes() == archive
    assert host.asked == [("GET", "/models/tiny.onward")]
    assert open_package(file).id.name == "tiny"
    host.shutdown()  # and with nobody there it is still had
    assert fetch(named(host, archive), allowed=allowed, cache=tmp_path / "cache") == file


def test_what_the_cache_has_under_that_name_but_is_not_it_is_fetched_again(
    host: Any, archive: bytes, tmp_path: Path
) -> None:
    host.says = saying(archive)
    allowed, cache = allowed_sources(host.url), tmp_path / "cache"
    kept = fetch(named(host, archive), allowed=allowed, cache=cache)
    other = tmp_path / "other.onward"
    other.write_bytes(archive[:-1])
    for spoil in (lambda: kept.write_bytes(b"another archive"), lambda: kept.symlink_to(other)):
        kept.unlink()
        spoil()
        assert fetch(named(host, archive), allowed=allowed, cache=cache) == kept
        assert kept.read_bytes() == archive and not kept.is_symlink()
    assert len(host.asked) == 3 and other.read_bytes() == archive[:-1]


@pytest.mark.parametrize(
    "allowed", ["", "https://127.0.0.1/models/", "http://127.0.0.1:1/models/", "{url}/model", "{url}/models/x/"]
)
def test_what_is_not_below_an_allowed_place_is_not_even_asked_for(
    allowed: str, host: Any, archive: bytes, tmp_path: Path
) -> None:
    with pytest.raises(SourceNotAllowed):
        fetch(named(host, archive), allowed=allowed_sources(allowed.format(url=host.url)), cache=tmp_path / "cache")
    assert host.asked == []
    assert not (tmp_path / "cache").exists()


def bad_hosts() -> dict[str, tuple[Callable[[bytes], Callable[[Any], None]], type[OnwardError]]]:
    return {
        "another archive": (lambda data: saying(data[:-1] + b"x"), DigestMismatch),
        "half of it": (lambda data: saying(data[: len(data) // 2]), DigestMismatch),
        "half of what it promised": (lambda data: saying(data[:100], length=len(data)), SourceUnreachable),
        "nothing": (lambda data: saying(b"", status=404), NotFound),
        "no": (lambda data: saying(b"", status=403), SourceUnreachable),
        "a fault": (lambda data: saying(b"", status=500), SourceUnreachable),
        "elsewhere": (lambda data: saying(b"", status=302, Location="http://127.0.0.1:1/x"), SourceUnreachable),
        "hang up": (lambda data: lambda request: request.connection.close(), SourceUnreachable),
    }


@pytest.mark.parametrize("says", sorted(bad_hosts()))
def test_whatever_a_host_says_instead_nothing_is_kept_and_the_next_try_works(
    says: str, host: Any, archive: bytes, tmp_path: Path
) -> None:
    answer, error = bad_hosts()[says]
    host.says = answer(archive)
    allowed = allowed_sources(host.url)
    with pytest.raises(error) as caught:
        fetch(named(host, archive), allowed=allowed, cache=tmp_path / "cache")
    assert caught.value.where == f"{host.url}/models/tiny.onward"
    assert list((tmp_path / "cache" / "archives").iterdir()) == []
    host.says = saying(archive)
    assert fetch(named(host, archive), allowed=allowed, cache=tmp_path / "cache").read_bytes() == archive


def test_a_host_that_never_ends_or_falls_silent_is_left(
    host: Any, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1 << 20)
    host.says = saying(b"x" * (3 << 20))
    with pytest.raises(TooLarge):
        fetch(named(host, archive), allowed=allowed_sources(host.url), cache=tmp_path)
    monkeypatch.setattr(sources, "SILENCE_S", 0.3)
    host.says = lambda request: time.sleep(1.5)
    started_s = time.monotonic()
    with pytest.raises(SourceUnreachable):
        fetch(named(host, archive), allowed=allowed_sources(host.url), cache=tmp_path)
    assert time.monotonic() - started_s < 1.4
    assert list((tmp_path / "archives").iterdir()) == []


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable):
        allowed = allowed_sources("http://127.0.0.1:1")
        fetch(f"http://127.0.0.1:1/x.onward#sha256={DIGEST}", allowed=allowed, cache=tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "https://host/x.onward", f"https://host/x.onward#md5={DIGEST}", "https://host/x.onward#sha256=12",
        f"https://user:secret@host/x.onward#sha256={DIGEST}", f"https://host/x.onward?token=secret#sha256={DIGEST}",
        f"http://host/x.onward#sha256={DIGEST}", f"ftp://host/x.onward#sha256={DIGEST}", f"https:///x#sha256={DIGEST}",
        f"https://host/a/../x.onward#sha256={DIGEST}", f"https://host/a/%2e%2e/x#sha256={DIGEST}",
        f"https://host//x#sha256={DIGEST}", f"https://host/#sha256={DIGEST}", f"https://host:0/x#sha256={DIGEST}",
        f"https://host:99999/x#sha256={DIGEST}", f"https://ho st/x#sha256={DIGEST}",
        f"https://host\\@evil/x#sha256={DIGEST}",
        f"https://höst/x#sha256={DIGEST}", f"https://host./x#sha256={DIGEST}",
        f"s3://bucket:80/x#sha256={DIGEST}",
        f"https://host/./x#sha256={DIGEST}", f"https://host/x/..#sha256={DIGEST}", f"https://[::1/x#sha256={DIGEST}",
    ],
)  # fmt: skip
def test_an_address_that_two_programs_could_read_differently_is_refused_and_no_secret_repeated(text: str) -> None:
    assert is_source(text)
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "secret", ["secret", "pa/secret", "p@secret", "p?secret", "p#secret", "p//secret", "a@b@secret"]
)
@pytest.mark.parametrize("where", ["https", "s3", "ftp"])
def test_no_password_is_repeated_whatever_is_in_it(where: str, secret: str) -> None:
    for text in (f"{where}://me:{secret}@h.com/x.onward", f"{where}://me:{secret}@h.com/x.onward#sha256={DIGEST}"):
        with pytest.raises(UsageError) as caught:
            parse_source(text)
        assert "secret" not in str(caught.value) and "me:" not in str(caught.value)
        with pytest.raises(UsageError) as caught:
            allowed_sources(text)
        assert "secret" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_said(host: Any, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", "utf-8")
    with pytest.raises(SourceUnreachable, match="cannot be kept"):
        fetch(named(host, archive), allowed=allowed_sources(host.url), cache=tmp_path / "file")


PIECES = st.sampled_from(
    ["a", "models", "..", ".", "", "%2e%2e", "@", "evil", ":443", ":80", "\\", "#", "?", "/", "//", "host", "HOST", "."]
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_no_address_leaves_what_is_allowed(text: str) -> None:
    """Whatever an address is made of: refused, or really below the place as a client would read it."""
    prefix = allowed_sources("https://host/models/")
    try:
        source = parse_source(f"https://{text}#sha256={DIGEST}")
    except UsageError:
        return
    if source.is_within(prefix[0]):
        assert source.address.startswith("https://host/models/")
        assert not {"..", ".", ""} & set(source.path.split("/")[1:])


def test_scheme_host_and_usual_port_are_the_same_however_they_are_written() -> None:
    prefix = allowed_sources("HTTPS://Host:443/models s3://bucket/m/")
    for text in ("https://HOST/models/x", "https://host:443/models/x", "s3://bucket/m/x"):
        assert any(parse_source(f"{text}#sha256={DIGEST}").is_within(one) for one in prefix)
    for text in ("https://host/modelsx/x", "https://host:444/models/x", "s3://bucket/x", "s3://other/m/x"):
        assert not any(parse_source(f"{text}#sha256={DIGEST}").is_within(one) for one in prefix)


@pytest.mark.parametrize("text", ["models/x", "/a/b", "fraud==1.0.0", "C:\\x", ""])
def test_paths_and_names_are_no_sources(text: str) -> None:
    assert not is_source(text)


def test_a_disk_that_is_full_is_said_and_nothing_is_kept(
    host: Any, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    host.says = saying(archive)
    monkeypatch.setattr(sources.os, "fsync", full)
    with pytest.raises(SourceUnreachable, match="No space left"):
        fetch(named(host, archive), allowed=allowed_sources(host.url), cache=tmp_path)
    assert list((tmp_path / "archives").iterdir()) == []
