"""Whose packages are taken: the policy "only signed packages", and the signature `onward.sig` of a package.

The policy lies in the environment, as a list of files with public keys, so that every process which opens a package
keeps it, those that others start among them; without it, nobody looks at signatures. A signature covers every file of
the package, its lock too, and is itself no part of the package digest: signing changes no digest.
Elliptic curves are the extra `sign`; its library is imported only where something is signed or a signature is needed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onward.errors import KeyRefused, MissingExtra, NotSigned, SignatureRefused
from onward.package.attestation import (
    MAX_BYTES,
    Attestation,
    files_in,
    read_attestation,
    signed_bytes,
    statement_of,
    write_attestation,
)
from onward.package.digest import LOCK_FILE, SIGNATURE_FILE, Lock, parse_lock, read_lock_bytes, verify_folder
from onward.package.reading import read_plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey

TRUST_VARIABLE = "ONWARD_SIGNED_BY"
"""Names the environment variable that lists the files of public keys, as `PATH` lists folders."""
MAX_KEY_BYTES = 64 << 10

_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def trusted_keys() -> tuple[Path, ...]:
    """The files of the public keys that packages must be signed by, any of them; none: no package need be signed.

    Raises `KeyRefused` where the variable is set and names no file: whoever set it wants a policy, not none.
    """
    value = os.environ.get(TRUST_VARIABLE)
    if value is None:
        return ()
    named = tuple(Path(name) for name in value.split(os.pathsep) if name)
    if not named:
        expected = "files with public keys, or a variable that is not set: no package need be signed then"
        raise KeyRefused("no key is named", where=TRUST_VARIABLE, expected=expected, found=repr(value))
    return named


def trust_only(keys: Iterable[Path]) -> None:
    """Take only packages signed by one of these keys from now on, in this process and in those that it starts.

    Raises `KeyRefused` where there is none, or one of them is no public key or cannot be listed by its path.
    """
    files = [key.resolve() for key in keys]
    if not files:
        raise KeyRefused("no key is named", expected=_expected("public"))
    for file in files:
        if os.pathsep in str(file):  # a list of paths would take it for two, and one of them may be there
            raise KeyRefused("its path cannot be listed", where=str(file), expected=f'a path without "{os.pathsep}"')
        _public_key(file)
    os.environ[TRUST_VARIABLE] = os.pathsep.join(map(str, files))


def read_trusted_lock(folder: Path) -> Lock:
    """The lock of a package, once its signature has been found to be right, where the policy asks for one.

    What the lock lists is not compared with the folder here. Raises `NotSigned`, `SignatureRefused` and what
    `read_lock` raises; nothing but the signature is parsed before.
    """
    data = read_lock_bytes(folder)
    keys = trusted_keys()
    if not keys:
        return parse_lock(data, folder)
    file = folder / SIGNATURE_FILE
    signed = dict(verify_signature(folder, keys).files)
    if signed.pop(LOCK_FILE, "") != hashlib.sha256(data).hexdigest():
        raise SignatureRefused(f"{LOCK_FILE} has changed since it was signed", where=str(file))
    lock = parse_lock(data, folder)
    differing = sorted(signed.items() ^ lock.files.items())
    if differing:
        raise SignatureRefused(f'"{differing[0][0]}" is not what was signed', where=str(file))
    return lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a signature says: the trusted key that fits it, and the files it lists, path → SHA-256 in hex."""

    key: Path
    files: Mapping[str, str]


def verify_signature(folder: Path, keys: Iterable[Path]) -> Signed:
    """What the signature of a package in `folder` says, where one of the keys made it.

    Raises `NotSigned` where there is none, `SignatureRefused` where no key fits, `KeyRefused` for what is no key.
    """
    file = folder / SIGNATURE_FILE
    known = {_hint(key): (path, key) for path, key in ((path, _public_key(path)) for path in keys)}
    try:
        data = read_plain(file, MAX_BYTES)
    except FileNotFoundError:
        expected = f"an {SIGNATURE_FILE} by one of the trusted keys: onward sign PACKAGE --key KEY"
        raise NotSigned(where=str(folder), expected=expected) from None
    except OSError as error:
        raise SignatureRefused(f"it cannot be read: {error.strerror}", where=str(file)) from None
    attestation = read_attestation(data, where=str(file))
    path, key = known.get(attestation.key_hint, (None, None))
    if path is None or key is None or not _fits(attestation, key):
        expected = "a signature by one of the trusted keys"
        found = f"key {attestation.key_hint[:12] or 'unnamed'}"
        raise SignatureRefused(where=str(file), expected=expected, found=found)
    return Signed(key=path, files=files_in(attestation.payload, where=str(file)))


def sign_folder(folder: Path, key: Path, *, password: str = "") -> str:
    """Sign a package folder, verified before, and return the SHA-256 of the public key that fits.

    Writes `onward.sig`, in one rename; one that is there is replaced. Raises `KeyRefused` for a key that cannot sign,
    `DigestMismatch` where the folder is not what its lock says.
    """
    private = _private_key(key, password)
    data = read_lock_bytes(folder)
    lock = parse_lock(data, folder)
    verify_folder(folder, lock)
    files = {**lock.files, LOCK_FILE: hashlib.sha256(data).hexdigest()}
    payload = statement_of(folder.resolve().name, files, signature_file=SIGNATURE_FILE)
    public = private.public_key()
    attestation = Attestation(
        payload=payload, signature=private.sign(signed_bytes(payload), _algorithm(public)), key_hint=_hint(public)
    )
    _write(folder / SIGNATURE_FILE, write_attestation(attestation))
    return attestation.key_hint


def _fits(attestation: Attestation, key: EllipticCurvePublicKey) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(attestation.signature, signed_bytes(attestation.payload), _algorithm(key))
    except InvalidSignature:
        return False
    return True


def _hint(key: EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(getattr(hashes, _CURVES[key.curve.name])())


def _public_key(file: Path) -> EllipticCurvePublicKey:
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_key_bytes(file))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyRefused("not a public key", where=str(file), expected=_expected("public")) from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise KeyRefused("a key of another kind", where=str(file), expected=_expected("public"))
    return key


def _private_key(file: Path, password: str) -> EllipticCurvePrivateKey:
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_key_bytes(file), password.encode() if password else None)
    except TypeError:  # cryptography's way to say that a password is missing, or too much
        expected = "its password in ONWARD_KEY_PASSWORD" if not password else "no password"
        raise KeyRefused("the key and the password do not go together", where=str(file), expected=expected) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRefused(
            "not a private key, or another password", where=str(file), expected=_expected("private")
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise KeyRefused("a key of another kind", where=str(file), expected=_expected("private"))
    return key


def _key_bytes(file: Path) -> bytes:
    try:
        return read_plain(file, MAX_KEY_BYTES, links=True)
    except OSError as error:
        raise KeyRefused(f"it cannot be read: {error.strerror}", where=str(file)) from None


def _expected(kind: str) -> str:
    return f"a {kind} key in PEM on the curve P-256, P-384 or P-521"


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        expected = "pip install 'onward[sign]'"
        raise MissingExtra("signatures need cryptography", expected=expected) from None


def _write(file: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=".onward-", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
