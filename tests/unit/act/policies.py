"""A real policy with actions, and keys that really encrypt, for the tests of `act`."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from onward.decide.policy import Facts
from onward.decide.rules import Rules, parse_policy
from onward.package.manifest import parse_manifest
from onward.store.records import EntityKey
from onward.store.store import Reader, Transaction
from onward.types import PackageId

PACKAGE = PackageId(name="fraud", version="1", digest="d")
MANIFEST = """format = 1
[package]
name = "fraud"
version = "1"
[[input]]
name = "Amount"
datatype = "FP64"
[[input]]
name = "card"
datatype = "BYTES"
[[input]]
name = "note"
datatype = "BYTES"
required = false
default = ""
[[output]]
name = "probability"
datatype = "FP32"
"""
POLICY = """format = 1
[policy]
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
[[rule]]
name = "refund"
when = "input.note != ''"
reasons = ["R"]
outcome = "refund"
[[rule.action]]
name = "refund"
arguments = { card = "input.card", amount = "input.Amount", note = "input.note" }
[[rule]]
name = "sure"
when = "result.probability > 0.9"
reasons = ["R"]
outcome = "decline"
[[rule.action]]
name = "hold"
arguments = { card = "input.card", amount = "input.Amount" }
[[rule.action]]
name = "tell"
arguments = { card = "input.card" }
[[cap]]
outcome = "refund"
at_most = 2
per_s = 3600
otherwise = { outcome = "review", reasons = ["RATE_CAP"] }
[[action]]
name = "hold"
approval = "arguments.amount > 50.0"
approval_expires_s = 600
compensation = "release"
[action.arguments]
card = { type = "string", max_length = 40, pattern = "[a-z0-9-]+" }
amount = { type = "number", minimum = 0, maximum = 10000 }
[[action]]
name = "release"
[action.arguments]
card = { type = "string", max_length = 40, pattern = "[a-z0-9-]+" }
amount = { type = "number", minimum = 0, maximum = 10000 }
[[action]]
name = "tell"
[action.arguments]
card = { type = "string", private = true }
[[action]]
name = "refund"
[action.arguments]
card = { type = "string", max_length = 40, pattern = "[a-z0-9-]+" }
amount = { type = "number", minimum = 0, maximum = 100 }
note = { type = "string", max_length = 60 }
"""


def rules() -> Rules:
    return parse_policy(POLICY, parse_manifest(MANIFEST))


def facts(amount: float = 20.0, *, card: str = "c1", note: str = "", refunds: int = 0) -> Facts:
    return Facts(
        answer={"probability": 0.99},
        input={"Amount": amount, "card": card, "note": note},
        now_s=0.0,
        recent={"refund": refunds},
    )


class TestKeys:
    """One AES-256-GCM key for each entity, as `onward.store.keys` keeps them, with the master key left out."""

    __test__ = False

    def seal(self, tx: Transaction, tenant: str, entity: str, data: bytes, /) -> tuple[str, bytes]:
        key = self._key(tx, tenant, entity)
        nonce = os.urandom(12)
        return key.key_id, nonce + AESGCM(key.wrapped).encrypt(nonce, data, key.key_id.encode())

    def open(self, reader: Reader, key_id: str, sealed: bytes, /) -> bytes | None:
        key = reader.key(key_id)
        if key is None or key.destroyed_s is not None:
            return None
        return AESGCM(key.wrapped).decrypt(sealed[:12], sealed[12:], key_id.encode())

    def digest(self, tx: Transaction, tenant: str, entity: str, data: bytes, /) -> str:
        return hmac.new(self._key(tx, tenant, entity).wrapped, data, hashlib.sha256).hexdigest()

    @staticmethod
    def _key(tx: Any, tenant: str, entity: str) -> EntityKey:
        key = tx.key_of(tenant, entity)
        if key is None:
            wrapped = AESGCM.generate_key(256)
            key = EntityKey(key_id=os.urandom(8).hex(), tenant=tenant, entity=entity, wrapped=wrapped, created_s=0.0)
            tx.add_key(key)
        return key
