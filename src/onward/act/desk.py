"""Where an answer becomes what the business does: decide, write it down and reserve its actions, in one transaction.

Of one request everything is kept or nothing, and it is kept before anybody is told. Limits that depend on what was
decided before (rate caps, an idempotency key seen before) are looked at in the very transaction that adds to them, so
that they hold however many ask at once. Knows nothing of HTTP, and does not carry actions out.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from onward.act import crash
from onward.act.outbox import Keys, action_id_of, plan, reserve
from onward.act.targets import Targets
from onward.decide.audit import (
    DECISION,
    EVERYTHING,
    HiddenDecision,
    canonical,
    plain_facts,
    read_decision,
    record_decision,
)
from onward.decide.policy import Facts
from onward.decide.rules import Rules
from onward.errors import InputError
from onward.store.records import Action, AuditEntry
from onward.store.store import Reader, Transaction
from onward.types import Decision, PackageId

DENIED = "denied"
"""Where an action stands that nobody allowed to the package: it is not in the outbox."""
_PROCESS = os.urandom(6).hex()
_NUMBERS = itertools.count(1)
T = TypeVar("T")


class IdempotencyKeyReused(InputError):
    """The idempotency key was used for another request."""

    code = "IDEMPOTENCY_KEY_REUSED"
    status = 422


class Submits(Protocol):
    """Runs a function in a transaction of the store: `onward.store.writer.Writer`."""

    def submit(self, fn: Callable[[Transaction], T], /) -> Future[T]:
        """The future is done once what the function wrote is durable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """Who decides: a package's policy. `private` names its private fields, `fields` all that a caller can send."""

    package: PackageId
    rules: Rules
    private: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()

    def hides(self, facts: Facts) -> bool:
        """Whether anything in the facts is private, so that what is made of them is, too."""
        if facts.profile or EVERYTHING in self.private:
            return True
        return not self.private.isdisjoint(facts.input) or not self.private.isdisjoint(facts.answer or ())

    def sent(self, facts: Facts) -> bytes:
        """The caller's part of the facts: a request is the same if this is."""
        return canonical({name: value for name, value in facts.input.items() if name in self.fields})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One answer, or failure, to be decided on; `entity` is whom it is about ("": nobody in particular).

    `facts.recent` is not the caller's to fill in: the counts are read when it is decided.
    """

    facts: Facts
    entity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An action of a decision and where it stood when it was recorded: in a state of the outbox, or "denied"."""

    action_id: str
    name: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A decision that is durable: nothing that is told of it can be lost any more.

    `facts` are those that it was made on. `repeated` says that it was recorded before, under the same key.
    """

    decision_id: str
    sequence: int
    facts: Facts
    decision: Decision
    actions: tuple[Taken, ...]
    repeated: bool = False


class Desk:
    """Decides through one writer, so that the decisions of one store come one after another."""

    def __init__(
        self, writer: Submits, keys: Keys | None, targets: Targets, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._writer = writer
        self._keys = keys
        self._targets = targets
        self._clock = clock

    def record(
        self,
        ruling: Ruling,
        cases: Sequence[Case],
        *,
        tenant: str,
        idempotency_key: str = "",
        also: Callable[[Transaction, Sequence[Recorded]], None] | None = None,
    ) -> Future[list[Recorded]]:
        """Decide the cases of one request, in order, and write down what follows: all of it or nothing.

        `also` writes what belongs to it, in the same transaction; where it raises, nothing was decided. With a key, a
        repeated request gets what was recorded the first time, and nothing happens again, `also` included. Raises
        `NotRecordable`; the future raises `IdempotencyKeyReused` or what the store raises, and then nothing was
        decided.
        """
        cases = [replace(case, facts=plain_facts(case.facts)) for case in cases]
        ids = decision_ids(len(cases) + 1, tenant, idempotency_key)

        def work(tx: Transaction) -> list[Recorded]:
            recorded = self._before(tx, ruling, cases, ids, tenant) if idempotency_key else None
            if recorded is None:
                recorded = [
                    self._decide(tx, ruling, case, decision_id, tenant)
                    for case, decision_id in zip(cases, ids, strict=False)
                ]
                if also is not None:
                    also(tx, recorded)
            crash.point("desk.writing")
            return recorded

        future = self._writer.submit(work)
        future.add_done_callback(_committed)
        return future

    def _decide(self, tx: Transaction, ruling: Ruling, case: Case, decision_id: str, tenant: str) -> Recorded:
        rules, package, now_s = ruling.rules, ruling.package, self._clock()
        facts = case.facts
        decision = rules.decide(facts)
        cap = rules.caps.get(decision.outcome)
        if cap is not None:  # the others need no counting
            counted = tx.count_outcomes(tenant, rules.name, now_s - cap.per_s, outcomes=(cap.outcome,))
            facts = replace(facts, recent=dict(counted))
            if counted.get(cap.outcome, 0) >= cap.at_most:
                decision = rules.decide(facts)
        entry = record_decision(
            tx, self._keys, decision_id=decision_id, tenant=tenant, entity=case.entity, package=package, rules=rules,
            facts=facts, decision=decision, private_fields=ruling.private, at_s=now_s,
            is_plain=True,
        )  # fmt: skip
        if decision.outcome in rules.caps:
            tx.note_outcome(tenant, rules.name, decision.outcome, now_s)
        actions: tuple[Taken, ...] = ()
        if decision.actions:
            planned = plan(
                rules, self._targets, decision, facts, decision_id=decision_id, tenant=tenant, package=package,
                at_s=now_s, private=ruling.hides(facts),
            )  # fmt: skip
            reserved = reserve(tx, planned, at_s=now_s, keys=self._keys, entity=case.entity)
            actions = taken(decision, reserved, decision_id, tenant)
        return Recorded(
            decision_id=decision_id, sequence=entry.sequence, facts=facts, decision=decision, actions=actions
        )

    def _before(
        self, tx: Transaction, ruling: Ruling, cases: Sequence[Case], ids: Sequence[str], tenant: str
    ) -> list[Recorded] | None:
        """What was recorded under these ids, None where nothing was. Raises `IdempotencyKeyReused`."""
        entries = [decision_entry(tx, tenant, decision_id) for decision_id in ids]
        if entries[0] is None:
            return None
        known = [entry for entry in entries if entry is not None]
        if len(known) != len(cases):
            raise IdempotencyKeyReused(expected="as many items", found=f"{len(cases)} items")
        return [self._again(tx, ruling, case, entry) for case, entry in zip(cases, known, strict=True)]

    def _again(self, tx: Transaction, ruling: Ruling, case: Case, entry: AuditEntry) -> Recorded:
        recorded = read_decision(entry, self._keys, tx)
        if isinstance(recorded, HiddenDecision):
            raise IdempotencyKeyReused("what was decided under this key cannot be read any more")
        if recorded.package.name != ruling.package.name:
            raise IdempotencyKeyReused(expected=f"a request to {recorded.package.name}", found=ruling.package.name)
        if ruling.sent(recorded.facts) != ruling.sent(case.facts):
            raise IdempotencyKeyReused(expected="the same input")
        draft = entry.draft
        actions = taken(recorded.decision, tx.actions_of(draft.subject), draft.subject, draft.tenant)
        return Recorded(
            decision_id=draft.subject, sequence=entry.sequence, facts=recorded.facts, decision=recorded.decision,
            actions=actions, repeated=True,
        )  # fmt: skip


def decision_ids(count: int, tenant: str, idempotency_key: str) -> list[str]:
    """Ids for the decisions of one request: made of its key where it has one, else new and, roughly, in order."""
    if not idempotency_key:
        # Of the system's random bytes only once a process: each time would be a call that gives other threads the turn.
        now = f"{time.time_ns() // 1_000_000:012x}{_PROCESS}"
        return [f"{now}{next(_NUMBERS) & 0xFFFFFFFF:08x}" for _ in range(count)]
    keyed = (canonical([tenant, idempotency_key, index]) for index in range(count))
    return [hashlib.sha256(b"onward-decision-1" + one).hexdigest()[:32] for one in keyed]


def decision_entry(reader: Reader, tenant: str, decision_id: str) -> AuditEntry | None:
    """The audit entry of a tenant's decision."""
    for entry in reader.audit_of(decision_id):
        if entry.draft.kind == DECISION and entry.draft.tenant == tenant:
            return entry
    return None


def taken(decision: Decision, reserved: Sequence[Action], decision_id: str, tenant: str) -> tuple[Taken, ...]:
    """The actions that a decision wants, in its order; what is not in the outbox was denied.

    What was reserved besides, to undo one of them, comes last.
    """
    states = {action.draft.action_id: action for action in reserved}
    found = []
    for index, call in enumerate(decision.actions):
        action_id = action_id_of(tenant, f"{decision_id}:{call.name}:{index}")
        action = states.pop(action_id, None)
        found.append(Taken(action_id=action_id, name=call.name, state=action.state.value if action else DENIED))
    found += [
        Taken(action_id=action.draft.action_id, name=action.draft.name, state=action.state.value)
        for action in states.values()
    ]
    return tuple(found)


def _committed(future: Future[Any]) -> None:
    if future.exception() is None:
        crash.point("desk.committed")
