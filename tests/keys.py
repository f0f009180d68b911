"""Keys to sign packages with, made for a test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of a private key and of its public key, both PEM."""

    private: Path
    public: Path


def key_pair(folder: Path, name: str = "key", curve: ec.EllipticCurve | None = None, password: str = "") -> Pair:
    """A new pair of keys in a folder."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.pub.pem")
    locked: KeySerializationEncryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    pair.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    pair.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return pair
