"""Whatever is done to them, a store in memory, one in SQLite and one in PostgreSQL are in the same state."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.store.chain import first_break
from onward.store.records import (
    ActionDraft,
    ActionState,
    Approval,
    AuditDraft,
    Conversation,
    EntityKey,
    ProfileEvent,
    Recording,
    Turn,
)
from onward.store.sql import open_store
from onward.store.store import Conflict, InvalidRecord, Reader, Store, Transaction
from onward.store.writer import Writer
from tests.postgres import Postgres

Step: TypeAlias = Callable[[Transaction], Any]

# Few of each, so that they meet; one is written in two alphabets, one sorts differently by locale.
ids = st.sampled_from(["a", "B", "é"])
tenants = st.sampled_from(["t", "T"])
entities = st.sampled_from(["e", "ë", "f"])
kinds = st.sampled_from(["buy", "view"])
times = st.integers(0, 12).map(lambda tick: tick / 4)
data = st.binary(max_size=4)
states = st.sampled_from(ActionState)
limits = st.integers(0, 3)
MANY = 10_000


def calls(name: str, *places: st.SearchStrategy[Any], **names: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    """Steps that call a method of the transaction."""
    arguments = st.tuples(st.tuples(*places), st.fixed_dictionaries(names))

    def step(drawn: tuple[tuple[Any, ...], dict[str, Any]]) -> Step:
        def call(transaction: Transaction) -> Any:
            return getattr(transaction, name)(*drawn[0], **drawn[1])

        call.__qualname__ = f"{name}{drawn}"
        return call

    return arguments.map(step)


drafts = st.builds(
    ActionDraft, action_id=ids, tenant=tenants, idempotency_key=ids, decision_id=ids, name=kinds, payload=data,
    payload_digest=st.sampled_from(["1", "2"]), created_s=times, available_s=times, key_id=ids,
    needs_approval=st.booleans(),
)  # fmt: skip
events = st.builds(
    ProfileEvent, event_id=ids, tenant=tenants, entity=entities, kind=kinds, at_s=times, recorded_s=times, data=data
)
steps = st.one_of(
    calls("append_audit", st.builds(AuditDraft, entry_id=ids, at_s=times, tenant=tenants, kind=kinds, subject=ids,
                                    body=data, key_id=ids, sealed=data)),
    calls("reserve", drafts),
    calls("reserve", drafts),
    calls("lease_actions", ids, now_s=times, lease_s=times, limit=limits, names=st.none() | st.sets(kinds)),
    calls("move_action", ids, states, attempt=st.integers(0, 2), now_s=times, available_s=st.none() | times, error=ids,
          receipt=data),
    calls("settle_leases", times),
    calls("lease_actions", ids, now_s=st.just(3.0), lease_s=times, limit=st.just(9)),
    calls("move_action", ids, st.just(ActionState.EXECUTING), attempt=st.just(1), now_s=times),
    calls("request_approval", st.builds(Approval, approval_id=ids, tenant=tenants, action_id=ids, requested_s=times,
                                        payload_digest=st.sampled_from(["1", "2"]), expires_s=times)),
    calls("decide_approval", tenants, ids, payload_digest=st.sampled_from(["1", "2"]), granted=st.booleans(), by=ids,
          now_s=times, note=ids),
    calls("expire_approvals", times),
    calls("note_outcome", tenants, ids, kinds, times),
    calls("delete_outcomes", before_s=times),
    calls("set_switch", ids, st.booleans(), ids, times),
    calls("add_key", st.builds(EntityKey, key_id=ids, tenant=tenants, entity=entities, wrapped=data, created_s=times)),
    calls("append_event", events),
    calls("append_events", st.lists(events, max_size=4)),
    calls("delete_events", before_s=times, tenant=st.none() | tenants, kinds=st.just(()) | st.tuples(kinds),
          limit=st.none() | limits),
    calls("erase_entity", tenants, entities, times),
    calls("open_conversation", st.builds(Conversation, conversation_id=ids, tenant=tenants, entity=entities,
                                         model=kinds, created_s=times)),
    calls("append_turn", tenants, st.builds(Turn, conversation_id=ids, index=st.integers(0, 2), role=kinds,
                                            content=data, at_s=times, state=data)),
    calls("delete_conversation", tenants, ids),
    calls("add_recording", st.builds(Recording, recording_id=ids, tenant=tenants, entity=entities, model=kinds,
                                     version=ids, package_digest=ids, at_s=times, duration_s=times, input=data,
                                     answer=data)),
    calls("delete_recordings", before_s=times),
    # Reads between the writes: what waits to be sent must be seen, and in the right place.
    calls("audit_of", ids),
    calls("audit_entries", after=limits, limit=limits),
    calls("last_audit"),
    calls("action", ids),
    calls("actions", states, limit=limits),
    calls("actions_of", ids),
    calls("backlog"),
    calls("count_outcomes", tenants, ids, times, outcomes=st.sets(kinds)),
    calls("switches"),
    calls("events", tenants, entities, as_of_s=times, since_s=st.none() | times, known_s=st.none() | times,
          kinds=st.just(()) | st.tuples(kinds), limit=limits),
    calls("count_events", tenants, entities, kinds, since_s=times, as_of_s=times),
)  # fmt: skip
savepoints = st.lists(st.tuples(st.lists(steps, min_size=2, max_size=12), st.booleans()), min_size=1, max_size=4)
transactions = st.lists(st.tuples(savepoints, st.booleans()), min_size=1, max_size=4)
"""Each a list of savepoints, and whether it fails at its end; each savepoint a list of steps, and whether it fails."""


class Given(Exception):
    """A failure on purpose."""


def attempt(step: Step, transaction: Transaction) -> str:
    """What a step returned or how it was refused."""
    try:
        returned = step(transaction)
        return repr(dict(sorted(returned.items(), key=repr)) if isinstance(returned, dict) else returned)
    except (Conflict, InvalidRecord) as refused:
        return f"{type(refused).__name__}: {refused}"


def run(store: Store, plan: list[tuple[list[tuple[list[Step], bool]], bool]]) -> list[str]:
    """Do all of it; what each step gave."""
    seen = []
    for savepoints, fails in plan:
        with suppress(Given), store.transaction() as transaction:
            for inside, undone in savepoints:
                with suppress(Given), transaction.savepoint():
                    seen += [f"{step.__qualname__} → {attempt(step, transaction)}" for step in inside]
                    if undone:
                        raise Given
            if fails:
                raise Given
    return seen


def run_in_groups(store: Store, plan: list[tuple[list[tuple[list[Step], bool]], bool]]) -> list[str]:
    """The same through a writer, with as many commits as it likes: every savepoint is somebody's change."""
    writer = Writer(store)
    futures = []

    def change(inside: list[Step], undone: bool) -> Callable[[Transaction], list[str]]:
        def made(transaction: Transaction) -> list[str]:
            seen = [f"{step.__qualname__} → {attempt(step, transaction)}" for step in inside]
            if undone:
                raise Given
            return seen

        return made

    for savepoints, _ in plan:
        futures += [writer.submit(change(inside, undone)) for inside, undone in savepoints]
    writer.close()
    return [repr(future.exception(0) or future.result(0)) for future in futures]


def state(reader: Reader) -> dict[str, Any]:
    """All that a reader can tell."""
    names, owners, people = ["a", "B", "é"], ["t", "T"], ["e", "ë", "f"]
    assert first_break(reader.audit_entries(limit=MANY)) is None
    return {
        "audit": reader.audit_entries(limit=MANY),
        "actions": {each: reader.actions(each, limit=MANY) for each in ActionState},
        "of": [reader.actions_of(name) for name in names],
        "backlog": dict(sorted(reader.backlog().items(), key=repr)),
        "approvals": [reader.approval(name) for name in names] + [reader.approvals_of(name) for name in names],
        "open": [reader.open_approvals(owner, 1.0) for owner in (None, *owners)],
        "outcomes": [sorted(reader.count_outcomes(o, p, s).items()) for o in owners for p in names for s in (0.0, 1.5)],
        "switches": reader.switches(),
        "keys": [reader.key(name) for name in names] + [reader.key_of(o, p) for o in owners for p in people],
        "events": [reader.events(o, p, as_of_s=99.0, limit=MANY) for o in owners for p in people],
        "conversations": [reader.conversations_of(o, p) for o in owners for p in people],
        "turns": [reader.turns(o, name) for o in owners for name in names],
        "recordings": [reader.recordings(kind) for kind in ("buy", "view")]
        + [reader.recordings_of(o, p) for o in owners for p in people],
    }


@pytest.fixture(scope="module")
def server_url(postgres: Postgres) -> Iterator[str]:
    """One database for all examples; each begins by emptying it."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)


def emptied(url: str) -> Store:
    import psycopg

    from onward.store.tables import metadata

    store = open_store(url)
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # the log lets nobody delete otherwise
        for table in metadata.sorted_tables:
            if table.name != "schema_versions":
                connection.execute(f"DELETE FROM {table.name}".encode())
    return store


@pytest.mark.parametrize("doing", [run, run_in_groups])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=transactions)
def test_the_same_transactions_give_the_same_answers_and_the_same_state(
    doing: Callable[[Store, Any], list[str]], server_url: str, plan: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        stores = [open_store("memory:"), open_store(f"sqlite:///{Path(folder) / 'store.db'}"), emptied(server_url)]
        for store in stores:
            closing.callback(store.close)
        answers = [doing(store, plan) for store in stores]
        found = []
        for store in stores:
            with store.snapshot() as reader:
                found.append(state(reader))
        for other in (1, 2):
            assert answers[other] == answers[0]
            assert found[other] == found[0]
