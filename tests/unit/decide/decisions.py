"""Decisions for the tests: facts of every kind, a pure policy over them, and keys that really encrypt."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import strategies as st

from onward.decide.policy import Facts
from onward.store.records import EntityKey
from onward.store.store import Reader, Transaction
from onward.types import ActionCall, Decision, PackageId

PACKAGE = PackageId(name="fraud", version="1.0.0", digest="ab" * 32)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)
words = st.text(st.characters(codec="utf-8"), max_size=12)
values = st.recursive(
    numbers | words | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["amount", "card", "country", "note", "spent_1h"])
tables = st.dictionaries(names, values, max_size=5)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    return Facts(
        answer=draw(st.none() | tables),
        input=draw(tables),
        profile=draw(tables),
        now_s=draw(st.floats(0, 4e9)),
        recent=draw(st.dictionaries(st.sampled_from(["approve", "review"]), st.integers(0, 50))),
        failure=draw(st.sampled_from(["", "QUEUE_FULL"])),
    )


@dataclass(frozen=True)
class Argument:
    private: bool = False


@dataclass(frozen=True)
class ActionType:
    arguments: Mapping[str, Argument]


@dataclass(frozen=True)
class Hashing:
    """A policy whose outcome depends on every bit of the facts: what replay must find again."""

    name: str = "hashing"
    version: str = "1"
    salt: str = ""
    actions: Mapping[str, ActionType] = field(
        default_factory=lambda: {"hold": ActionType({"card": Argument(private=True), "amount": Argument()})}
    )

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.salt.encode()).hexdigest()

    def decide(self, facts: Facts) -> Decision:
        seen = repr((self.salt, _sorted(facts.answer), _sorted(facts.input), _sorted(facts.profile), facts.now_s,
                     _sorted(facts.recent), facts.failure))  # fmt: skip
        mark = hashlib.sha256(seen.encode("utf-8", "surrogatepass")).hexdigest()
        card = facts.input.get("card", "none")
        return Decision(
            outcome=("approve", "review", "decline")[int(mark, 16) % 3],
            rule=mark[:8],
            reasons=(mark[8:12].upper(),),
            arguments={"amount": facts.input.get("amount"), "mark": int(mark[:12], 16) / 7},
            actions=(ActionCall(name="hold", arguments={"card": card, "amount": 1.5}),) if mark < "8" else (),
        )


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return sorted((name, _sorted(part)) for name, part in value.items())
    return [_sorted(part) for part in value] if isinstance(value, list) else value


class PlainKeys:
    """AES-256-GCM under a key for each entity, which lies in the store unwrapped."""

    def seal(self, tx: Transaction, tenant: str, entity: str, data: bytes, /) -> tuple[str, bytes]:
        key = tx.key_of(tenant, entity)
        if key is None:
            key = EntityKey(
                key_id=os.urandom(8).hex(), tenant=tenant, entity=entity, wrapped=AESGCM.generate_key(256), created_s=0
            )
            tx.add_key(key)
        nonce = os.urandom(12)
        return key.key_id, nonce + AESGCM(key.wrapped).encrypt(nonce, data, None)

    def open(self, reader: Reader, key_id: str, sealed: bytes, /) -> bytes | None:
        key = reader.key(key_id)
        if key is None or key.destroyed_s is not None:
            return None
        return AESGCM(key.wrapped).decrypt(sealed[:12], sealed[12:], None)
