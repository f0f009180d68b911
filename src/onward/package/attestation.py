"""The form of a signature: what OpenSSF `model-signing` 1.x writes and reads, without the libraries that it needs.

A signed statement lists every file of a model with its SHA-256 (an in-toto statement of the predicate
`https://model_signing/signature/v1.0`); a DSSE envelope holds the statement and the signature over it; a Sigstore
bundle holds the envelope and a hint to the key. Only the form is known here: neither keys nor packages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec

from onward.errors import SignatureRefused

MAX_BYTES = 16 << 20

_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A statement, the signature over it, and the SHA-256 of the public key (PEM) that is said to fit."""

    payload: bytes
    signature: bytes
    key_hint: str


class _Signature(msgspec.Struct):
    sig: str


class _Envelope(msgspec.Struct, rename="camel"):
    payload: str
    payload_type: str
    signatures: list[_Signature]


class _PublicKey(msgspec.Struct):
    hint: str | None = None


class _Material(msgspec.Struct, rename="camel"):
    public_key: _PublicKey | None = None


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


class _Subject(msgspec.Struct):
    digest: dict[str, str]


class _Resource(msgspec.Struct):
    name: str
    algorithm: str
    digest: str


class _Serialization(msgspec.Struct):
    method: str


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: list[_Resource]


class _Statement(msgspec.Struct, rename="camel"):
    type_: str = msgspec.field(name="_type")
    subject: list[_Subject]
    predicate_type: str
    predicate: _Predicate


def signed_bytes(payload: bytes) -> bytes:
    """What is signed for a payload: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def statement_of(name: str, files: Mapping[str, str], *, signature_file: str) -> bytes:
    """The statement that a model called `name` has these files (path → SHA-256 in hex) beside its signature."""
    ordered = sorted(files, key=PurePosixPath)
    root = hashlib.sha256(b"".join(bytes.fromhex(files[path]) for path in ordered)).hexdigest()
    resources = [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in ordered]
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [signature_file]}
    statement: dict[str, Any] = {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {"serialization": how, "resources": resources},
    }
    return json.dumps(statement, separators=(",", ":")).encode()


def files_in(payload: bytes, *, where: str) -> dict[str, str]:
    """The files that a statement lists: path → SHA-256 in hex. Raises `SignatureRefused` for another statement."""
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
        kinds = (statement.type_, statement.predicate_type, statement.predicate.serialization.method)
        resources = statement.predicate.resources
        root = hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SignatureRefused(f"the statement cannot be read: {error}", where=where) from None
    if kinds != (_STATEMENT_TYPE, _PREDICATE_TYPE, "files"):
        expected = "the SHA-256 of whole files, as model-signing 1.x states it"
        raise SignatureRefused("another kind of statement is signed", where=where, expected=expected)
    if any(resource.algorithm != "sha256" or len(resource.digest) != 64 for resource in resources):
        raise SignatureRefused("files are signed by another digest", where=where, expected="sha256")
    if [subject.digest.get("sha256") for subject in statement.subject] != [root]:
        raise SignatureRefused("the statement contradicts itself", where=where)
    files = {resource.name: resource.digest.lower() for resource in resources}
    if len(files) != len(resources):
        raise SignatureRefused("the statement lists a file twice", where=where)
    return files


def write_attestation(attestation: Attestation) -> bytes:
    """The bundle as JSON."""
    envelope = {
        "payload": base64.b64encode(attestation.payload).decode(),
        "payloadType": _PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(attestation.signature).decode(), "keyid": ""}],
    }
    bundle = {
        "mediaType": _BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": attestation.key_hint}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    return json.dumps(bundle, separators=(",", ":")).encode() + b"\n"


def read_attestation(data: bytes, *, where: str) -> Attestation:
    """A bundle from its JSON. Raises `SignatureRefused` for what is none, or was not signed by a key alone."""
    try:
        bundle = msgspec.json.decode(data, type=_Bundle)
        envelope = bundle.dsse_envelope
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = [base64.b64decode(one.sig, validate=True) for one in envelope.signatures]
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError, RecursionError) as error:
        raise SignatureRefused(f"the signature cannot be read: {error}", where=where) from None
    if (bundle.media_type, envelope.payload_type) != (_BUNDLE_TYPE, _PAYLOAD_TYPE):
        raise SignatureRefused("another kind of signature", where=where, expected="a Sigstore bundle 0.3 of DSSE")
    if len(signatures) != 1:
        raise SignatureRefused(where=where, expected="one signature", found=str(len(signatures)))
    key = bundle.verification_material.public_key
    if key is None:
        expected = "a signature by a key; certificates and Sigstore's identities are not looked at"
        raise SignatureRefused("it was not signed by a key", where=where, expected=expected)
    return Attestation(payload=payload, signature=signatures[0], key_hint=key.hint or "")
