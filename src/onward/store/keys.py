"""Every entity's own key, wrapped by the installation's: what is sealed under it is gone when the key is.

An entity's key is 32 random bytes. AES-256-GCM seals with one half of what HKDF makes of it, HMAC-SHA256 signs with
the other; the installation's key wraps it, bound to whose it is. The installation's key lies outside the store, in a
file or the environment: whoever has the store alone reads nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onward.errors import MissingExtra, OnwardError
from onward.store.records import EntityKey, Erasure
from onward.store.store import Reader, Transaction

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as missing:
    raise MissingExtra("sealing needs cryptography: pip install 'onward[decide]'") from missing

KEY_BYTES = 32
VARIABLE = "ONWARD_KEY"
"""The environment variable that may hold the installation's key, in base64."""
_NONCE_BYTES = 12
_FORMAT = b"\x01"


class KeyUnusable(OnwardError):
    """The installation's key cannot be used."""

    code = "KEY_UNUSABLE"
    status = 500
    exit_code = 69


def installation_key(path: Path | None = None, *, environment: Mapping[str, str] = os.environ) -> bytes:
    """The installation's key: of the file, made at first use with mode 0600; without one, of `ONWARD_KEY`.

    Raises `KeyUnusable` where others may read the file, or it holds anything but 32 bytes in base64.
    """
    if path is None:
        text = environment.get(VARIABLE, "")
        if not text:
            raise KeyUnusable("there is no installation key", expected=f"a key file, or {VARIABLE} in the environment")
        return _decoded(text, VARIABLE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyUnusable("others may read it", where=str(path), expected="mode 0600", found=f"{mode:04o}")
            return _decoded(file.read(1024).decode("ascii", "replace"), str(path))
    except OSError as refused:
        raise KeyUnusable(where=str(path), found=str(refused)) from refused


def _make(path: Path) -> None:
    """Write a new key, unless there is one. Whole or not at all, also where two processes begin at once."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # what is sealed from now on must not outlive the key
        finally:
            os.close(folder)
    finally:
        draft.unlink()


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyUnusable(where=where, expected=f"{KEY_BYTES} bytes in base64")
    return key


@dataclass(frozen=True, slots=True)
class _Unwrapped:
    cipher: AESGCM
    signing: bytes


class Keys:
    """Seals, opens and signs under entities' keys; safe for many threads.

    Unwrapped keys are kept for the `max_cached` entities used last. Whether a key still lives is asked of the store
    each time, so that what another process erased is erased here too.
    """

    def __init__(self, master: bytes, *, max_cached: int = 4096, clock: Callable[[], float] = time.time) -> None:
        if len(master) != KEY_BYTES:
            raise KeyUnusable(expected=f"{KEY_BYTES} bytes", found=f"{len(master)}")
        self._wrapping = AESGCM(_derived(master, b"onward wrap 1"))
        self._max_cached = max_cached
        self._clock = clock
        self._cached: OrderedDict[str, _Unwrapped] = OrderedDict()
        self._lock = threading.Lock()

    def seal(self, tx: Transaction, tenant: str, entity: str, data: bytes) -> tuple[str, bytes]:
        """The id of the entity's key and the data under it; makes the key at first use."""
        key = self._living(tx, tenant, entity)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._unwrapped(key).cipher.encrypt(nonce, data, key.key_id.encode())
        return key.key_id, _FORMAT + nonce + sealed

    def open(self, reader: Reader, key_id: str, sealed: bytes) -> bytes | None:
        """The data; None once the key is destroyed. Raises `KeyUnusable` where the data or the key is another."""
        key = reader.key(key_id)
        if key is None or key.destroyed_s is not None:
            self._forget(key_id)
            return None
        if sealed[:1] != _FORMAT:
            raise KeyUnusable("what is sealed has another form", where=key_id)
        nonce, sealed = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._unwrapped(key).cipher.decrypt(nonce, sealed, key_id.encode())
        except (InvalidTag, ValueError):
            raise KeyUnusable("what is sealed was changed, or under another key", where=key_id) from None

    def digest(self, tx: Transaction, tenant: str, entity: str, data: bytes) -> str:
        """HMAC-SHA256 of the data under the entity's key, in hex: nobody without the key can tell what it is of."""
        signing = self._unwrapped(self._living(tx, tenant, entity)).signing
        return hmac.new(signing, data, hashlib.sha256).hexdigest()

    def erase(self, tx: Transaction, tenant: str, entity: str, now_s: float) -> Erasure:
        """Erase the entity in the store, and its key here."""
        key = tx.key_of(tenant, entity)
        erasure = tx.erase_entity(tenant, entity, now_s)
        if key is not None:
            self._forget(key.key_id)
        return erasure

    @property
    def cached(self) -> int:
        """How many unwrapped keys are in memory."""
        return len(self._cached)

    def _living(self, tx: Transaction, tenant: str, entity: str) -> EntityKey:
        key = tx.key_of(tenant, entity)
        if key is None:
            key_id = secrets.token_hex(16)
            nonce, secret = secrets.token_bytes(_NONCE_BYTES), secrets.token_bytes(KEY_BYTES)
            wrapped = _FORMAT + nonce + self._wrapping.encrypt(nonce, secret, _owner(key_id, tenant, entity))
            key = EntityKey(key_id=key_id, tenant=tenant, entity=entity, wrapped=wrapped, created_s=self._clock())
            tx.add_key(key)
        return key

    def _unwrapped(self, key: EntityKey) -> _Unwrapped:
        with self._lock:
            found = self._cached.get(key.key_id)
            if found is not None:
                self._cached.move_to_end(key.key_id)
                return found
        nonce, wrapped = key.wrapped[1 : 1 + _NONCE_BYTES], key.wrapped[1 + _NONCE_BYTES :]
        try:
            secret = self._wrapping.decrypt(nonce, wrapped, _owner(key.key_id, key.tenant, key.entity))
        except (InvalidTag, ValueError):
            raise KeyUnusable("the store was written under another installation key", where=key.key_id) from None
        found = _Unwrapped(AESGCM(_derived(secret, b"onward seal 1")), _derived(secret, b"onward sign 1"))
        with self._lock:
            self._cached[key.key_id] = found
            while len(self._cached) > self._max_cached:
                self._cached.popitem(last=False)
        return found

    def _forget(self, key_id: str) -> None:
        with self._lock:
            self._cached.pop(key_id, None)


def _derived(secret: bytes, purpose: bytes) -> bytes:
    """HKDF's expansion of a secret that is uniformly random already, one block long (RFC 5869, 2.3)."""
    return hmac.new(secret, purpose + b"\x01", hashlib.sha256).digest()


def _owner(key_id: str, tenant: str, entity: str) -> bytes:
    """Whose key it is, so that a wrapped key put in another's place does not open."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in map(str.encode, (key_id, tenant, entity)))
