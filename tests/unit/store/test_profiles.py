from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.errors import InputError, TooLarge
from onward.package.manifest import Feature, ProfileSource
from onward.prepare.profile import Features
from onward.store.chain import first_break
from onward.store.new_events import MAX_DATA_BYTES, read_event
from onward.store.profiles import Ingested, Profiles
from onward.store.records import AuditDraft, Conversation, EntityKey, Turn
from onward.store.sql import open_store
from onward.store.store import Store, StoreUnavailable
from onward.store.writer import Writer

NOW = 1_700_000_000.0
SPENT = Feature(name="spent", kinds=("purchase",), function="sum", field="amount", window_s=3600.0, default=0.0)
LATEST = Feature(name="latest", kinds=("purchase",), function="last_n", field="item", n=3, datatype="BYTES", default=())


def features(
    *, max_events: int = 10_000, ttl_s: float | None = None, kinds: tuple[str, ...] = ("purchase",)
) -> Features:
    source = ProfileSource(entity="card", ttl_s=ttl_s, max_events=max_events)
    return Features(
        source, [SPENT, LATEST, Feature(name="n", kinds=kinds, function="count", datatype="INT64", default=0)]
    )


def purchase(number: int, *, ago_s: float = 10.0, amount: float = 1.0, kind: str = "purchase") -> dict[str, Any]:
    return {"id": f"p-{number}", "kind": kind, "at": NOW - ago_s, "data": {"amount": amount, "item": f"i{number}"}}


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    opened = Writer(store)
    yield opened
    opened.close()


@pytest.fixture
def profiles(store: Store, writer: Writer, clock: Clock) -> Profiles:
    return Profiles(store, writer, clock=clock)


class CountingReads:
    """A store that counts how often it is read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.snapshots = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def snapshot(self) -> Any:
        self.snapshots += 1
        return self._store.snapshot()


def test_an_event_changes_the_very_next_read(profiles: Profiles) -> None:
    plan = features()
    assert profiles.read("t", "c", plan) == {"spent": 0.0, "latest": [], "n": 0}
    for number in range(1, 4):
        assert profiles.ingest("t", "c", [purchase(number)]).result() == Ingested(accepted=1, duplicate=0)
        assert profiles.read("t", "c", plan)["spent"] == float(number)


def test_the_same_event_sent_again_counts_once(profiles: Profiles) -> None:
    first, second = purchase(1), purchase(2)
    assert profiles.ingest("t", "c", [first]).result() == Ingested(accepted=1, duplicate=0)
    assert profiles.ingest("t", "c", [first, second, second]).result() == Ingested(accepted=1, duplicate=2)
    assert profiles.read("t", "c", features())["n"] == 2


def test_tenants_and_entities_do_not_see_each_other(profiles: Profiles) -> None:
    plan = features()
    profiles.ingest("a", "c", [purchase(1, amount=5.0)]).result()
    profiles.ingest("b", "c", [purchase(1, amount=7.0)]).result()
    profiles.ingest("a", "d", [purchase(2, amount=9.0)]).result()
    reads = [profiles.read(tenant, entity, plan)["spent"] for tenant, entity in (("a", "c"), ("b", "c"), ("a", "d"))]
    assert reads == [5.0, 7.0, 9.0]
    assert profiles.erase("a", "c").events == 1
    assert profiles.read("b", "c", plan)["spent"] == 7.0
    assert profiles.events("b", "d") == []
    assert [event["id"] for event in profiles.events("a", "d")] == ["p-2"]


def test_a_read_as_of_an_earlier_time_sees_what_had_happened_and_what_was_known(
    profiles: Profiles, clock: Clock
) -> None:
    plan = features()
    profiles.ingest("t", "c", [purchase(1, ago_s=100.0)]).result()
    clock.now_s += 50.0
    profiles.ingest("t", "c", [purchase(2, ago_s=90.0)]).result()  # late: known 140 s after it happened
    assert profiles.read("t", "c", plan)["n"] == 2
    assert profiles.read("t", "c", plan, as_of_s=NOW - 95.0)["n"] == 1
    assert profiles.read("t", "c", plan, as_of_s=NOW - 100.0)["n"] == 0
    assert profiles.read("t", "c", plan, as_of_s=NOW + 40.0, known_s=NOW + 40.0)["n"] == 1
    assert profiles.read("t", "c", plan, as_of_s=NOW + 40.0, known_s=NOW + 50.0)["n"] == 2


def test_reads_from_the_cache_equal_reads_from_the_store(store: Store, writer: Writer, clock: Clock) -> None:
    counting = CountingReads(store)
    profiles, plan = Profiles(counting, writer, clock=clock, freshness_s=math.inf), features()  # type: ignore[arg-type]
    profiles.ingest("t", "c", [purchase(n, ago_s=7000.0 - n * 100) for n in range(60)]).result()
    for step_s in (0.0, 1.0, 900.0, 1800.0, 36_000.0):
        clock.now_s = NOW + step_s
        found = profiles.read("t", "c", plan)
        assert profiles.cached("t", "c", plan) == found
        assert Profiles(store, writer, clock=clock).read("t", "c", plan) == found
    assert counting.snapshots == 1
    assert found["n"] == 60 and found["spent"] == 0.0


def test_an_event_dated_ahead_is_seen_when_its_time_has_come(profiles: Profiles, clock: Clock) -> None:
    plan = features()
    profiles.ingest("t", "c", [purchase(1), purchase(2, ago_s=-30.0)]).result()
    assert profiles.read("t", "c", plan)["n"] == 1
    clock.now_s += 31.0
    assert profiles.read("t", "c", plan)["n"] == 2


def test_only_the_latest_events_count_where_there_are_too_many(profiles: Profiles, clock: Clock) -> None:
    plan = features(max_events=5)
    profiles.ingest("t", "c", [purchase(n, ago_s=100.0 - n) for n in range(20)]).result()
    profiles.ingest("t", "c", [purchase(99, ago_s=-30.0)]).result()
    assert profiles.read("t", "c", plan) == {"spent": 5.0, "latest": ["i19", "i18", "i17"], "n": 5}
    clock.now_s += 60.0
    assert profiles.read("t", "c", plan) == {"spent": 5.0, "latest": ["i99", "i19", "i18"], "n": 5}
    assert profiles.read("t", "c", plan) == {"spent": 5.0, "latest": ["i99", "i19", "i18"], "n": 5}


def test_what_another_process_wrote_is_seen_once_the_cache_is_not_fresh_any_more(
    store: Store, writer: Writer, clock: Clock
) -> None:
    plan = features()
    here = Profiles(store, writer, clock=clock, freshness_s=0.05)
    there = Profiles(store, writer, clock=clock)
    assert here.read("t", "c", plan)["n"] == 0
    there.ingest("t", "c", [purchase(1)]).result()
    threading.Event().wait(0.06)
    assert here.cached("t", "c", plan) is None
    assert here.read("t", "c", plan)["n"] == 1


def test_a_read_that_began_before_an_event_does_not_hide_it_from_later_ones(
    store: Store, writer: Writer, clock: Clock
) -> None:
    class SlowReads(CountingReads):
        def snapshot(self) -> Any:
            reading = super().snapshot()
            outer = self

            class Held:
                def __enter__(self) -> Any:
                    entered = reading.__enter__()
                    entered.last_audit()  # SQLite takes its snapshot at the first read
                    if outer.snapshots == 1:
                        profiles.ingest("t", "c", [purchase(1)]).result()
                    return entered

                def __exit__(self, *exception: Any) -> None:
                    reading.__exit__(*exception)

            return Held()

    profiles = Profiles(SlowReads(store), writer, clock=clock)  # type: ignore[arg-type]
    assert profiles.read("t", "c", features())["n"] == 0
    assert profiles.read("t", "c", features())["n"] == 1


def test_the_cache_stays_within_its_bytes(store: Store, writer: Writer, clock: Clock) -> None:
    profiles, plan = Profiles(store, writer, clock=clock, cache_bytes=40_000), features()
    for number in range(100):
        profiles.ingest("t", f"c{number}", [purchase(number * 10 + n) for n in range(5)]).result()
        assert profiles.read("t", f"c{number}", plan)["n"] == 5
        assert profiles._cache.size_bytes <= 40_000
    assert 1 < len(profiles._cache) < 100
    assert profiles.cached("t", "c99", plan) is not None
    assert profiles.cached("t", "c0", plan) is None
    for number in range(100):
        profiles.ingest("t", f"c{number}", [purchase(5000 + number)]).result()
    assert (len(profiles._cache), profiles._cache.size_bytes) == (0, 0)


def test_nothing_is_written_of_events_of_which_one_is_wrong(profiles: Profiles) -> None:
    with pytest.raises(InputError) as refused:
        profiles.ingest("t", "c", [purchase(1), {"kind": "purchase", "at": "yesterday"}])
    assert refused.value.where == "[1].at"
    assert profiles.events("t", "c") == []


def test_a_commit_that_failed_is_told_and_leaves_the_cache_right(store: Store, writer: Writer, clock: Clock) -> None:
    profiles, plan = Profiles(store, writer, clock=clock), features()
    profiles.ingest("t", "c", [purchase(1)]).result()
    profiles.read("t", "c", plan)
    writer.close()
    with pytest.raises(StoreUnavailable):
        profiles.ingest("t", "c", [purchase(2)])
    assert profiles.read("t", "c", plan)["n"] == 1


def test_a_purge_deletes_what_no_package_looks_at_any_more(profiles: Profiles) -> None:
    short = features(ttl_s=100.0)
    long = features(ttl_s=1000.0, kinds=("visit",))
    ever = features(kinds=("contract",))
    events = [purchase(n, ago_s=ago, kind=kind) for n, (kind, ago) in enumerate([
        ("purchase", 50.0), ("purchase", 500.0), ("purchase", 5000.0), ("visit", 500.0), ("visit", 5000.0),
        ("contract", 5000.0), ("other", 5000.0),
    ])]  # fmt: skip
    profiles.ingest("t", "c", events).result()
    ever = Features(ever.source, [feature for feature in ever.features if feature.kinds == ("contract",)])
    assert profiles.purge([short, long, ever]) == 2
    assert [event["id"] for event in profiles.events("t", "c")] == ["p-0", "p-3", "p-1", "p-6", "p-5"]


def test_a_purge_changes_no_answer(profiles: Profiles) -> None:
    plan = features(ttl_s=100.0)
    profiles.ingest("t", "c", [purchase(n, ago_s=n * 20.0) for n in range(10)]).result()
    before = profiles.read("t", "c", plan)
    assert profiles.purge([plan]) == 4
    assert profiles.read("t", "c", plan) == before


def test_an_export_has_all_that_is_kept_of_the_entity_and_of_nobody_else(profiles: Profiles, store: Store) -> None:
    profiles.ingest("t", "c", [purchase(n, ago_s=n) for n in range(300)]).result()
    profiles.ingest("t", "d", [purchase(999)]).result()
    with store.transaction() as tx:
        tx.add_key(EntityKey(key_id="k1", tenant="t", entity="c", wrapped=b"w", created_s=NOW))
        tx.open_conversation(Conversation(conversation_id="v", tenant="t", entity="c", model="support", created_s=NOW))
        tx.append_turn("t", Turn(conversation_id="v", index=0, role="customer", content=b'{"text":"hi"}', at_s=NOW))
    export = profiles.export("t", "c")
    assert [event["id"] for event in export["events"]] == [f"p-{n}" for n in range(300)]
    assert export["events"][0]["data"] == {"amount": 1.0, "item": "i0"}
    assert (export["tenant"], export["entity"], export["key_id"]) == ("t", "c", "k1")
    assert export["conversations"][0]["turns"][0]["content"] == {"text": "hi"}


def note_erasure(tx: Any, erasure: Any, *, tenant: str, key_id: str, by: str, at_s: float) -> None:
    body = f"erased by {by}".encode()
    tx.append_audit(
        AuditDraft(
            entry_id=f"erased-{at_s}", at_s=at_s, tenant=tenant, kind="profile.erased", subject=key_id, body=body
        )
    )


def test_no_byte_of_an_erased_entity_is_left_anywhere_and_the_chain_still_holds(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    store = open_store(f"sqlite:///{file}")
    writer = Writer(store)
    profiles = Profiles(store, writer, note_erasure=note_erasure)
    marks = [b"entity-zanzibar", b"secret-merchant", b"event-id-quokka", b"said-marmalade", b"wrapped-key-bytes"]
    entity, merchant, event_id, said, wrapped = (mark.decode() for mark in marks)
    data = {"merchant": merchant, "pad": "x" * 500}
    events = [{"id": f"{event_id}-{n}", "kind": "purchase", "data": data} for n in range(50)]
    others = [
        {"id": f"o-{n}", "kind": "purchase", "data": {"merchant": "kept-shop", "pad": "y" * 500}} for n in range(50)
    ]
    for event, other in zip(events, others, strict=True):  # so that they lie side by side in pages
        profiles.ingest("t", entity, [event]).result()
        profiles.ingest("t", "another", [other]).result()
    with store.transaction() as tx:
        tx.add_key(EntityKey(key_id="k1", tenant="t", entity=entity, wrapped=wrapped.encode(), created_s=NOW))
        tx.open_conversation(Conversation(conversation_id="v", tenant="t", entity=entity, model="m", created_s=NOW))
        tx.append_turn("t", Turn(conversation_id="v", index=0, role="customer", content=said.encode(), at_s=NOW))
        sealed = AuditDraft(
            entry_id="d", at_s=NOW, tenant="t", kind="decision", subject="d1", body=b"{}", key_id="k1", sealed=b"..."
        )
        tx.append_audit(sealed)
    plan = features()
    assert profiles.read("t", entity, plan)["n"] == 50

    def bytes_kept() -> bytes:
        return b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))

    assert all(mark in bytes_kept() for mark in marks)
    erasure = profiles.erase("t", entity, by="ann")
    assert (erasure.keys, erasure.events, erasure.conversations) == (1, 50, 1)
    assert [mark for mark in marks if mark in bytes_kept()] == []
    assert bytes_kept().count(b"kept-shop") >= 50
    assert ("t", entity) not in profiles._cache._kept
    assert profiles.cached("t", entity, plan) is None
    assert profiles.read("t", entity, plan) == plan.default
    assert profiles.export("t", entity)["events"] == []
    with store.snapshot() as reader:
        entries = reader.audit_entries()
    assert [entry.draft.kind for entry in entries] == ["decision", "profile.erased"]
    assert first_break(entries) is None
    assert profiles.erase("t", entity).events == 0
    writer.close()
    store.close()
    assert [mark for mark in marks if mark in bytes_kept()] == []


def checked(value: Any) -> Any:
    return read_event(value, tenant="t", entity="c", now_s=NOW)


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (None, NOW),
        (12, 12.0),
        (1.5, 1.5),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-15T00:13:20.5+02:00", NOW + 0.5),
    ],
)
def test_the_time_of_an_event_is_seconds_or_text_with_an_offset(at: Any, seconds: float) -> None:
    assert checked({"kind": "a", "at": at}).at_s == seconds


@pytest.mark.parametrize(
    ("event", "where"),
    [
        ([], ""),
        ({}, "kind"),
        ({"kind": "Purchase"}, "kind"),
        ({"kind": "a", "what": 1}, "what"),
        ({"kind": "a", "id": ""}, "id"),
        ({"kind": "a", "id": "x" * 201}, "id"),
        ({"kind": "a", "id": 7}, "id"),
        ({"kind": "a", "id": "\ud800"}, "id"),
        ({"kind": "a", "at": "2023-11-14T22:13:20"}, "at"),
        ({"kind": "a", "at": "tomorrow"}, "at"),
        ({"kind": "a", "at": -1}, "at"),
        ({"kind": "a", "at": 1e13}, "at"),
        ({"kind": "a", "at": 10**400}, "at"),
        ({"kind": "a", "at": math.nan}, "at"),
        ({"kind": "a", "at": True}, "at"),
        ({"kind": "a", "data": [1]}, "data"),
        ({"kind": "a", "data": {"x": math.inf}}, "data"),
        ({"kind": "a", "data": {"x": 1 << 64}}, "data"),
        ({"kind": "a", "data": {"x": "\ud800"}}, "data"),
        ({"kind": "a", "data": {"x": object()}}, "data"),
        ({"kind": "a", "data": {"a": [[[[[[[[1]]]]]]]]}}, "data"),
    ],
)
def test_an_event_that_is_not_one_is_refused_with_its_place(event: Any, where: str) -> None:
    with pytest.raises(InputError) as refused:
        checked(event)
    assert refused.value.where == where


def test_an_event_too_large_is_refused() -> None:
    checked({"kind": "a", "data": {"x": "y" * (MAX_DATA_BYTES - 8)}})
    with pytest.raises(TooLarge):
        checked({"kind": "a", "data": {"x": "y" * MAX_DATA_BYTES}})


def test_an_event_without_an_id_gets_one_of_its_own() -> None:
    assert checked({"kind": "a"}).event_id != checked({"kind": "a"}).event_id
