"""Packages from elsewhere: archives behind `https://` and `s3://`, from places that are allowed, known by their digest.

A source is `https://HOST/PATH/NAME.onward#sha256=HEX` or `s3://BUCKET/PATH/NAME.onward#sha256=HEX`: what is fetched is
that archive or nothing, whoever answers. Where fetching is allowed from is said by the machine's owner, never by who
names a package. Fetching is fsspec's, the extra `sources`; it is imported only when something is fetched.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from onward.errors import (
    DigestMismatch,
    MissingExtra,
    NotFound,
    SourceNotAllowed,
    SourceUnreachable,
    TooLarge,
    UsageError,
)
from onward.package.archive import cache_folder
from onward.package.digest import file_digest

ALLOWED_VARIABLE = "ONWARD_SOURCES"
"""Names the environment variable that lists the places allowed, as prefixes with white space between them."""
MAX_BYTES = 64 << 30
CONNECT_S = 10.0
SILENCE_S = 30.0
"""How long nothing may come before the host counts as gone."""

_SCHEMES = ("https", "s3", "http")
_PORTS = {"https": 443, "http": 80}
_CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256=([0-9a-f]{64})")
# No encoding, no way up, nothing that two programs could read differently.
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()+,=@-]+)+")
_PREFIX = re.compile(rf"(?:{_PATH.pattern})?/?")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\]")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A place: scheme, host (or bucket) and port, and a path. `sha256` is "" in a prefix."""

    scheme: str
    host: str
    port: int
    path: str
    sha256: str = ""

    @property
    def address(self) -> str:
        """The address without the digest, as it is fetched and shown."""
        usual = self.port == _PORTS.get(self.scheme, 0)
        return f"{self.scheme}://{self.host}{'' if usual else f':{self.port}'}{self.path}"

    def is_within(self, prefix: Source) -> bool:
        """Whether this place is the prefix's, or below it."""
        if (self.scheme, self.host, self.port) != (prefix.scheme, prefix.host, prefix.port):
            return False
        folder = prefix.path if prefix.path.endswith("/") else f"{prefix.path}/"
        return self.path == prefix.path or self.path.startswith(folder)


def is_source(text: str) -> bool:
    """Whether a text names a place elsewhere, allowed or not, rather than a path here."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def parse_source(text: str) -> Source:
    """A source from its text. Raises `UsageError` that says which part is wrong, without repeating secrets."""
    parts = _split(text)
    if _PATH.fullmatch(parts.path) is None:
        expected = "a path of plain names: no %, no .., nothing empty"
        raise UsageError("not a path to an archive", where=_shown(text), expected=expected)
    found = _DIGEST.fullmatch(parts.fragment)
    if found is None:
        expected = f"{_shown(text)}#sha256= and the archive's SHA-256 in hex"
        raise UsageError("a source is known by its digest", where=_shown(text), expected=expected)
    return _source(parts, text, sha256=found[1])


def allowed_sources(text: str | None = None) -> tuple[Source, ...]:
    """The prefixes that `text`, or else the environment, allows. Raises `UsageError` for one that is none."""
    given = os.environ.get(ALLOWED_VARIABLE, "") if text is None else text
    prefixes = []
    for prefix in given.split():
        parts = _split(prefix)
        if _PREFIX.fullmatch(parts.path) is None or parts.fragment:
            raise UsageError("not a place to allow", where=ALLOWED_VARIABLE, expected="https://HOST/PATH/ or s3://BUCKET/PATH/",
                             found=_shown(prefix))  # fmt: skip
        prefixes.append(_source(parts, prefix))
    return tuple(prefixes)


def fetch(text: str, *, allowed: tuple[Source, ...] | None = None, cache: Path | None = None,
          progress: Callable[[int], None] = lambda _: None) -> Path:  # fmt: skip
    """The archive of a source, as a file in the cache; `progress` is told the bytes read.

    What the cache has is hashed, not fetched again; what it has under that name but is not it, is. Raises
    `SourceNotAllowed`, `SourceUnreachable`, `NotFound`, `TooLarge`, `DigestMismatch`, `MissingExtra` and `UsageError`;
    nothing half-fetched is left where it would be found.
    """
    source = parse_source(text)
    prefixes = allowed_sources() if allowed is None else allowed
    if not any(source.is_within(prefix) for prefix in prefixes):
        expected = f"one below {', '.join(prefix.address for prefix in prefixes)}" if prefixes else "none is allowed"
        raise SourceNotAllowed(where=source.address, expected=f"{expected} ({ALLOWED_VARIABLE})")
    folder = (cache or cache_folder()) / "archives"
    kept = folder / f"{source.sha256}.onward"
    if _holds(kept, source.sha256):
        return kept
    making = folder / f".fetching-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = _download(source, making, progress)
        if found != source.sha256:
            raise DigestMismatch(
                "the archive is not the one named", where=source.address, expected=source.sha256, found=found
            )
        making.replace(kept)
    except OSError as error:
        raise SourceUnreachable(f"it cannot be kept: {error.strerror}", where=source.address) from None
    finally:
        with suppress(OSError):  # where the folder is none, there is nothing to remove
            making.unlink(missing_ok=True)
    return kept


def _holds(file: Path, digest: str) -> bool:
    """Whether a file is there that anybody may take for what its name says: others can write to a cache, too."""
    try:
        return not file.is_symlink() and file.is_file() and file_digest(file) == digest
    except OSError:
        return False


def _download(source: Source, into: Path, progress: Callable[[int], None]) -> str:
    """Read the source into a file; its SHA-256 in hex."""
    digest, size = hashlib.sha256(), 0
    with _opened(source) as stream, into.open("wb") as file:
        while chunk := _read(stream, source):
            size += len(chunk)
            if size > MAX_BYTES:
                raise TooLarge(where=source.address, expected=f"at most {MAX_BYTES} bytes", found="more")
            digest.update(chunk)
            file.write(chunk)
            progress(size)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


@contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """The source as a stream of bytes; what goes wrong is told without addresses that may hold secrets."""
    fsspec = _fsspec(source)
    try:
        if source.scheme == "s3":
            settings = {"connect_timeout": CONNECT_S, "read_timeout": SILENCE_S, "retries": {"max_attempts": 2}}
            files = fsspec.filesystem("s3", config_kwargs=settings, skip_instance_cache=True)
            stream = files.open(f"{source.host}{source.path}", "rb", block_size=8 << 20, cache_type="readahead")
        else:
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=SILENCE_S)
            files = fsspec.filesystem(
                source.scheme, client_kwargs={"timeout": timeout}, allow_redirects=False, skip_instance_cache=True
            )
            # A size keeps fsspec from asking for one first, by a request that would follow redirects.
            stream = files.open(source.address, "rb", block_size=0, size=MAX_BYTES)
    except FileNotFoundError:
        raise NotFound("there is no such archive", where=source.address) from None
    except Exception as error:  # each backend has kinds of its own
        raise _unreachable(source, error) from None
    with stream:
        status = getattr(getattr(stream, "r", None), "status", 200)
        if 300 <= status < 400:
            expected = "the address that it leads to, if that is allowed"
            raise SourceUnreachable(
                "the host leads elsewhere", where=source.address, expected=expected, found=f"status {status}"
            )
        yield stream


def _read(stream: Any, source: Source) -> bytes:
    try:
        data: bytes = stream.read(_CHUNK_BYTES)
        return data
    except Exception as error:  # as above
        raise _unreachable(source, error) from None


def _unreachable(source: Source, error: Exception) -> SourceUnreachable:
    status = getattr(error, "status", None)
    found = f"status {status}" if status else type(error).__name__
    return SourceUnreachable(where=source.address, expected=f"a host that answers within {SILENCE_S:g} s", found=found)


def _fsspec(source: Source) -> Any:
    try:
        import fsspec

        if source.scheme == "s3":
            import s3fs  # noqa: F401
        else:
            import aiohttp  # noqa: F401
    except ImportError:
        raise MissingExtra("packages are fetched by fsspec", expected="pip install 'onward[sources]'") from None
    return fsspec


def _split(text: str) -> SplitResult:
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise UsageError("not an address", where=_shown(text), expected="printable ASCII without spaces")
    try:
        return urlsplit(text)
    except ValueError as error:
        raise UsageError(f"not an address: {error}", where=_shown(text)) from None


def _source(parts: SplitResult, text: str, *, sha256: str = "") -> Source:
    if parts.scheme not in _SCHEMES:
        raise UsageError(
            "nothing is fetched this way", where=_shown(text), expected="https:// or s3://", found=parts.scheme
        )
    if "@" in parts.netloc:
        expected = "credentials in the environment, as the client of the store takes them"
        raise UsageError("no credentials belong in an address", where=_shown(text), expected=expected)
    if parts.query or "?" in text:
        raise UsageError("an address has no query", where=_shown(text), expected="a path alone")
    try:
        port = parts.port
    except ValueError:
        port = 0
    host = parts.netloc.lower()
    if port is not None:
        host = host.rpartition(":")[0]
    if _HOST.fullmatch(host) is None or port == 0 or (parts.scheme == "s3" and port is not None):
        raise UsageError(
            "not a host", where=_shown(text), expected="a name, or an address in figures, and a port from 1 up"
        )
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise UsageError("only this machine is asked without TLS", where=_shown(text), expected="https://")
    return Source(
        scheme=parts.scheme, host=host, port=port or _PORTS.get(parts.scheme, 0), path=parts.path, sha256=sha256
    )


def _shown(text: str) -> str:
    """An address for an error: without credentials and query, and not longer than a person reads."""
    shown = re.sub(r"//.*@", "//***@", text, flags=re.DOTALL)  # all that could be a password, whatever is in it
    return ascii(re.split(r"[#?]", shown)[0][:120])[1:-1]
