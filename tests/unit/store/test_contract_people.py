"""What every store keeps to: events, conversations, recordings, and erasing an entity."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from onward.store.chain import first_break
from onward.store.records import Conversation, EntityKey, Turn
from onward.store.store import Conflict, InvalidRecord, Store
from tests.unit.store.samples import audit, event, recording


def test_transactions_of_several_threads_take_turns(store: Store) -> None:
    def write(thread: int) -> None:
        for index in range(20):
            with store.transaction() as transaction:
                transaction.append_audit(audit(f"{thread}-{index}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.snapshot() as reader:
        entries = reader.audit_entries()
    assert [entry.sequence for entry in entries] == list(range(1, 81))
    assert first_break(entries) is None


def test_events_are_read_as_of_a_time_newest_first_and_counted(store: Store) -> None:
    with store.transaction() as transaction:
        for index in range(5):
            assert transaction.append_event(event(f"e{index}", float(index), kind="buy" if index % 2 else "view"))
        assert not transaction.append_event(event("e0", 77.0))
    with store.snapshot() as reader:
        assert [each.event_id for each in reader.events("t", "e", as_of_s=3.0)] == ["e2", "e1", "e0"]
        assert [each.event_id for each in reader.events("t", "e", as_of_s=9.0, limit=2)] == ["e4", "e3"]
        assert [each.event_id for each in reader.events("t", "e", as_of_s=9.0, kinds=("buy",))] == ["e3", "e1"]
        assert reader.count_events("t", "e", "view", since_s=2.0, as_of_s=4.0) == 1


def test_a_read_of_the_past_does_not_see_what_came_late(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.append_event(event("early", 1.0))
        transaction.append_event(event("late", 2.0, late_s=100.0))
    with store.snapshot() as reader:
        assert [each.event_id for each in reader.events("t", "e", as_of_s=5.0, known_s=5.0)] == ["early"]
        assert [each.event_id for each in reader.events("t", "e", as_of_s=5.0)] == ["late", "early"]


def test_tenants_do_not_see_each_other(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.append_event(event("e0", 1.0))
        assert transaction.append_event(event("e0", 1.0, tenant="u"))
        transaction.open_conversation(
            Conversation(conversation_id="c", tenant="t", entity="e", model="m", created_s=1.0)
        )
        assert len(transaction.events("t", "e", as_of_s=9.0)) == 1
        assert transaction.conversation("u", "c") is None
        assert transaction.turns("u", "c") == []
        assert not transaction.delete_conversation("u", "c")
        with pytest.raises(Conflict):
            transaction.append_turn("u", Turn(conversation_id="c", index=0, role="user", content=b"", at_s=1.0))


def test_turns_are_added_in_order_without_gaps(store: Store) -> None:
    turns = [Turn(conversation_id="c", index=index, role="user", content=b"hi", at_s=1.0) for index in range(3)]
    with store.transaction() as transaction:
        transaction.open_conversation(
            Conversation(conversation_id="c", tenant="t", entity="", model="m", created_s=1.0)
        )
        for turn in turns:
            transaction.append_turn("t", turn)
        for wrong in (turns[2], replace(turns[2], index=4)):
            with pytest.raises(Conflict):
                transaction.append_turn("t", wrong)
        assert transaction.turns("t", "c") == turns
        assert transaction.turns("t", "c", limit=2) == turns[1:]
        assert transaction.delete_conversation("t", "c")
        assert transaction.turns("t", "c") == []


def test_recordings_are_read_from_a_time_on_and_deleted_before_one(store: Store) -> None:
    with store.transaction() as transaction:
        for index in (3, 1, 2):
            transaction.add_recording(recording(f"r{index}", float(index)))
        with pytest.raises(Conflict):
            transaction.add_recording(recording("r1", 9.0))
        assert [row.recording_id for row in transaction.recordings("m", since_s=2.0)] == ["r2", "r3"]
        assert transaction.recordings("other") == []
        assert transaction.delete_recordings(before_s=3.0) == 2
        assert [row.recording_id for row in transaction.recordings("m")] == ["r3"]


def test_erasing_an_entity_destroys_its_key_and_data_leaves_others_and_keeps_the_chain_whole(store: Store) -> None:
    key = EntityKey(key_id="k1", tenant="t", entity="e", wrapped=b"secret", created_s=1.0)
    with store.transaction() as transaction:
        transaction.add_key(key)
        with pytest.raises(Conflict):
            transaction.add_key(replace(key, key_id="k2"))
        transaction.append_audit(audit("a", key_id="k1"))
        for entity in ("e", "f"):
            transaction.append_event(event(f"event-{entity}", 1.0, entity=entity))
            transaction.add_recording(recording(f"recording-{entity}", 1.0, entity=entity))
            transaction.open_conversation(
                Conversation(conversation_id=f"c-{entity}", tenant="t", entity=entity, model="m", created_s=1.0)
            )
    with store.transaction() as transaction:
        erasure = transaction.erase_entity("t", "e", 5.0)
        assert (erasure.keys, erasure.events, erasure.conversations, erasure.recordings) == (1, 1, 1, 1)
        again = transaction.erase_entity("t", "e", 6.0)
        assert (again.keys, again.events, again.conversations, again.recordings) == (0, 0, 0, 0)
    with store.snapshot() as reader:
        assert reader.key_of("t", "e") is None
        destroyed = reader.key("k1")
        assert destroyed is not None
        assert (destroyed.entity, destroyed.wrapped, destroyed.destroyed_s) == ("", b"", 5.0)
        assert reader.events("t", "e", as_of_s=9.0) == []
        assert len(reader.events("t", "f", as_of_s=9.0)) == 1
        assert reader.conversation("t", "c-e") is None
        assert reader.conversation("t", "c-f") is not None
        assert [row.entity for row in reader.recordings("m")] == ["f"]
        assert first_break(reader.audit_entries()) is None
    with store.transaction() as transaction:  # whoever comes back is a stranger with a new key
        transaction.add_key(replace(key, key_id="k2"))
        found = transaction.key_of("t", "e")
        assert found is not None
        assert found.key_id == "k2"


def test_a_kill_switch_stays_as_it_was_turned_last(store: Store) -> None:
    with store.transaction() as transaction:
        assert transaction.switches() == {}
        on = transaction.set_switch("all", True, "ann", 1.0)
        assert transaction.switches() == {"all": on}
        with pytest.raises(ZeroDivisionError), transaction.savepoint():
            transaction.set_switch("all", False, "eve", 2.0)
            assert not transaction.switches()["all"].on
            raise ZeroDivisionError
        assert transaction.switches() == {"all": on}
    with store.transaction() as transaction:
        off = transaction.set_switch("all", False, "bob", 3.0)
        hold = transaction.set_switch("action:hold", True, "bob", 3.0)
    with store.snapshot() as reader:
        assert reader.switches() == {"all": off, "action:hold": hold}
        assert (off.on, off.by, off.at_s) == (False, "bob", 3.0)


def test_many_events_are_added_at_once_and_each_once(store: Store) -> None:
    with store.transaction() as transaction:
        assert transaction.append_events([]) == 0
        assert transaction.append_events([event(f"e{index}", float(index)) for index in range(300)]) == 300
        again = [event("e1", 9.0), event("new", 9.5), event("new", 10.0)]
        assert transaction.append_events(again) == 1
        assert [each.at_s for each in transaction.events("t", "e", as_of_s=10.0, since_s=9.0)] == [9.5, 9.0]
    with store.snapshot() as reader:
        assert len(reader.events("t", "e", as_of_s=999.0, limit=999)) == 301


def test_old_events_are_deleted_by_tenant_kind_and_in_bites(store: Store) -> None:
    with store.transaction() as transaction:
        for index in range(6):
            transaction.append_event(event(f"e{index}", float(index), kind="buy" if index % 2 else "view"))
        transaction.append_event(event("u0", 0.0, tenant="u"))
        assert transaction.delete_events(before_s=2.0, tenant="u", kinds=("view",)) == 0
        assert transaction.delete_events(before_s=2.0, tenant="t", kinds=("view",)) == 1
        assert transaction.delete_events(before_s=99.0, tenant="t", limit=2) == 2
        assert [each.event_id for each in transaction.events("t", "e", as_of_s=99.0)] == ["e5", "e4", "e3"]
        assert transaction.delete_events(before_s=5.0) == 3
        assert [each.event_id for each in transaction.events("t", "e", as_of_s=99.0)] == ["e5"]
        assert transaction.delete_events(before_s=5.0) == 0


def test_what_is_known_of_an_entity_can_be_listed(store: Store) -> None:
    talks = [
        Conversation(conversation_id=name, tenant="t", entity="e", model="m", created_s=at_s)
        for name, at_s in (("b", 1.0), ("a", 1.0), ("c", 0.5))
    ]
    with store.transaction() as transaction:
        for talk in talks:
            transaction.open_conversation(talk)
            transaction.open_conversation(replace(talk, tenant="u"))
        for index in (2, 1):
            transaction.add_recording(recording(f"r{index}", float(index)))
        transaction.add_recording(recording("other", 1.0, entity="f"))
    with store.snapshot() as reader:
        assert [each.conversation_id for each in reader.conversations_of("t", "e")] == ["c", "a", "b"]
        assert [each.conversation_id for each in reader.conversations_of("t", "e", limit=1)] == ["c"]
        assert [each.recording_id for each in reader.recordings_of("t", "e")] == ["r1", "r2"]


def test_a_turn_keeps_the_dialogues_state(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.open_conversation(
            Conversation(conversation_id="c", tenant="t", entity="", model="m", created_s=1.0)
        )
        turn = Turn(conversation_id="c", index=0, role="user", content=b"hi", at_s=1.0, state=b'{"slots":{}}')
        transaction.append_turn("t", turn)
    with store.snapshot() as reader:
        assert reader.turns("t", "c") == [turn]


def test_nobody_in_particular_cannot_be_erased(store: Store) -> None:
    with store.transaction() as transaction, pytest.raises(InvalidRecord):
        transaction.erase_entity("t", "", 1.0)
