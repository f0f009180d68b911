"""The relay over a real HTTP target: every way an action can go, and exactly one effect on each."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.act import kill, person
from onward.act.executor import Order, Outcome, Verdict, done, failed, not_sent, unknown
from onward.act.relay import Relay, RelayOptions
from onward.act.targets import Queue, Targets
from onward.store.chain import first_break
from onward.store.memory import MemoryStore
from onward.store.records import ActionState
from tests.unit.act.outboxes import action, draft, kinds, reserve, state, target, targets, webhook, without_status
from tests.unit.act.receiver import Receiver

BEHAVIOURS = ["ok", "cut before", "cut after", "cut during", "500 after", "500", "503 later", "429", "late effect"]
FINAL = (ActionState.DONE, ActionState.DEAD)


class Script:
    """An executor that does what it is told, in memory: for what a relay does, not for what HTTP does."""

    can_reconcile = True

    def __init__(self, act: Callable[[Order], Outcome]) -> None:
        self._act = act
        self.orders: list[Order] = []
        self.happened: set[str] = set()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def execute(self, order: Order) -> Outcome:
        with self._lock:
            self.orders.append(order)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            return self._act(order)
        finally:
            with self._lock:
                self.running -= 1

    def reconcile(self, order: Order) -> Outcome:
        return done() if order.idempotency_key in self.happened else not_sent("NONE")

    def close(self) -> None:
        pass


def relay(store: MemoryStore, allowed: Targets, *, owner: str = "r1", **more: object) -> Relay:
    return Relay(store, allowed, owner=owner, options=RelayOptions(seed=1, **more))  # type: ignore[arg-type]


def scripted(store: MemoryStore, act: Callable[[Order], Outcome], **how: object) -> tuple[Relay, Script]:
    script = Script(act)
    names = ("hold", "book")
    allowed = targets(*(target(Queue(), name, **how) for name in names))
    executors = dict.fromkeys(names, script)
    return Relay(store, allowed, executors=executors, owner="r", options=RelayOptions(seed=1)), script


def run_until(relays: list[Relay], store: MemoryStore, *, start_s: float = 100.0, step_s: float = 40.0) -> float:
    """Passes of the relays in turn until nothing moves any more; the time then."""
    now_s = start_s
    for _ in range(60):
        for each in relays:
            each.run_once(now_s)
        with store.snapshot() as reader:
            open_states = set(reader.backlog()) - {ActionState.DEAD}
        if not open_states:
            break
        now_s += step_s
    return now_s


def test_a_due_action_is_carried_out_once_and_its_way_is_in_the_log(receiver: Receiver) -> None:
    store, hold = MemoryStore(), draft(card="c1")
    reserve(store, hold)
    each = relay(store, targets(target(webhook(receiver))))
    assert each.run_once(1.0) == 1
    assert each.run_once(2.0) == 0
    assert state(store, hold) is ActionState.DONE
    assert action(store, hold).receipt == b'{"number": 1}'
    assert receiver.effects == {hold.idempotency_key: 1}
    assert kinds(store, hold.action_id) == ["action.leased", "action.executing", "action.done"]


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_whatever_the_target_does_first_the_action_ends_with_one_effect(receiver: Receiver, behaviour: str) -> None:
    receiver.behave = lambda count: behaviour if count == 0 else "ok"
    receiver.slow_s = 0.6
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each = relay(store, targets(target(webhook(receiver, timeout_s=0.3))))
    each.run_once(100.0)
    if behaviour == "late effect":
        time.sleep(0.5)  # the target comes to it after we have given up waiting
    run_until([each], store, start_s=140.0)
    assert state(store, hold) is ActionState.DONE
    assert receiver.effects == {hold.idempotency_key: 1}


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_with_targets_that_fail_at_random_each_action_has_exactly_one_effect_or_none_and_is_dead(
    data: st.DataObject, seed: int
) -> None:
    receiver = Receiver()
    try:
        chance = random.Random(seed)
        ways = ["ok", "cut before", "cut after", "cut during", "500 after", "500", "503 later", "429", "400"]
        weights = data.draw(st.lists(st.integers(1, 5), min_size=len(ways), max_size=len(ways)))
        receiver.behave = lambda count: chance.choices(ways, weights)[0]
        store = MemoryStore()
        drafts = [draft(decision=f"d{number}") for number in range(6)]
        reserve(store, *drafts)
        allowed = targets(target(webhook(receiver), max_attempts=4))
        run_until([relay(store, allowed, owner=f"r{number}") for number in range(2)], store)
        for each in drafts:
            effects = receiver.effects[each.idempotency_key]
            if state(store, each) is ActionState.DONE:
                assert effects == 1
            else:
                assert state(store, each) is ActionState.DEAD and effects == 0
        with store.snapshot() as reader:
            assert first_break(reader.audit_entries(limit=10_000)) is None
    finally:
        receiver.close()


def test_an_unknown_outcome_without_a_status_query_waits_for_a_person_and_is_never_sent_again(
    receiver: Receiver,
) -> None:
    receiver.behave = lambda count: "cut after"
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each = relay(store, targets(target(without_status(webhook(receiver)))))
    for now_s in range(100, 100_000, 9000):
        each.run_once(float(now_s))
    assert state(store, hold) is ActionState.UNKNOWN
    assert len(receiver.received) == 1
    with store.transaction() as tx:
        person.confirm(tx, "t", hold.action_id, by="ada", now_s=100_001.0)
    assert state(store, hold) is ActionState.DONE


def test_the_status_is_not_asked_before_what_was_cut_can_have_come_to_rest(receiver: Receiver) -> None:
    receiver.behave = lambda count: "cut after"
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each = relay(store, targets(target(webhook(receiver), reconcile_after_s=50.0)))
    each.run_once(100.0)
    each.run_once(149.0)
    assert (state(store, hold), receiver.status_calls) == (ActionState.UNKNOWN, 0)
    each.run_once(150.0)
    assert (state(store, hold), receiver.status_calls) == (ActionState.DONE, 1)


def test_a_status_that_cannot_be_had_is_asked_for_ever_more_rarely(receiver: Receiver) -> None:
    receiver.behave = lambda count: "cut after"
    receiver.status_up = False
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each = relay(store, targets(target(webhook(receiver))))
    for second in range(1000):
        each.run_once(100.0 + second)
    assert 5 < receiver.status_calls < 40
    receiver.status_up = True
    each.run_once(2000.0)
    assert state(store, hold) is ActionState.DONE


def test_failures_without_effect_are_tried_until_the_limit_and_end_as_a_dead_letter() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each, script = scripted(store, lambda order: not_sent("CONNECT_FAILED"), max_attempts=3)
    run_until([each], store)
    assert state(store, hold) is ActionState.DEAD
    assert (len(script.orders), action(store, hold).error) == (3, "CONNECT_FAILED")
    with store.transaction() as tx:
        person.retry(tx, "t", hold.action_id, by="ada", now_s=5000.0)
    run_until([each], store, start_s=5001.0)
    assert len(script.orders) == 6  # a person's retry is worth as many tries again


def test_a_refusal_for_good_is_dead_at_once() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each, script = scripted(store, lambda order: failed("HTTP_422"))
    each.run_once(1.0)
    assert (state(store, hold), len(script.orders)) == (ActionState.DEAD, 1)


def test_retry_after_is_kept_to() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each, script = scripted(store, lambda order: Outcome(verdict=Verdict.LATER, error="HTTP_429", retry_after_s=60.0))
    each.run_once(100.0)
    each.run_once(159.0)
    assert len(script.orders) == 1
    each.run_once(160.0)
    assert len(script.orders) == 2


def test_an_executor_that_raises_leaves_the_outcome_unknown() -> None:
    def broken(order: Order) -> Outcome:
        raise ZeroDivisionError

    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each, _ = scripted(store, broken)
    each.run_once(1.0)
    assert (state(store, hold), action(store, hold).error) == (ActionState.UNKNOWN, "EXECUTOR_ZeroDivisionError")


def test_an_action_of_a_package_that_is_not_allowed_any_more_is_not_sent() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    script = Script(lambda order: done())
    allowed = targets(target(Queue(), packages=("other",)))
    Relay(store, allowed, executors={"hold": script}, owner="r").run_once(1.0)
    assert (state(store, hold), action(store, hold).error) == (ActionState.DEAD, "PACKAGE_NOT_ALLOWED")
    assert not script.orders


def test_a_payload_that_was_changed_in_the_outbox_is_not_sent() -> None:
    store, hold = MemoryStore(), draft(amount=5)
    reserve(store, replace(hold, payload=hold.payload.replace(b"5", b"9")))
    each, script = scripted(store, lambda order: done())
    each.run_once(1.0)
    assert (action(store, hold).error, script.orders) == ("PAYLOAD_CHANGED", [])


def test_while_the_kill_switch_is_on_nothing_begins_and_afterwards_everything_does() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each, script = scripted(store, lambda order: done())
    with store.transaction() as tx:
        kill.turn(tx, on=True, by="ada", at_s=0.5)
    each.run_once(1.0)
    assert (state(store, hold), script.orders) == (ActionState.PENDING, [])
    assert kinds(store, hold.action_id) == []
    with store.transaction() as tx:
        kill.turn(tx, on=False, by="ada", at_s=2.0)
    each.run_once(3.0)
    assert state(store, hold) is ActionState.DONE


@pytest.mark.parametrize("switch", [{"tenant": "t"}, {"action": "hold"}])
def test_a_kill_switch_for_one_tenant_or_action_stops_only_that(switch: dict[str, str]) -> None:
    store = MemoryStore()
    hold, book = draft(), replace(draft("book"), tenant="t" if "action" in switch else "u")
    reserve(store, hold, book)
    each, script = scripted(store, lambda order: done())
    with store.transaction() as tx:
        kill.turn(tx, on=True, by="ada", at_s=0.5, **switch)
    for now_s in (1.0, 2.0, 20.0, 40.0):
        each.run_once(now_s)
    assert [order.name for order in script.orders] == ["book"]
    with store.transaction() as tx:
        kill.turn(tx, on=False, by="ada", at_s=50.0, **switch)
    each.run_once(60.0)
    assert state(store, hold) is ActionState.DONE


def test_a_switch_turned_on_between_lease_and_begin_still_stops_the_action() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each, script = scripted(store, lambda order: done())
    [leased] = each._lease(1.0, limit=1)
    with store.transaction() as tx:
        kill.turn(tx, on=True, by="ada", at_s=1.0)
    each._perform(leased, lambda: 1.0)
    assert (state(store, hold), script.orders) == (ActionState.PENDING, [])


def test_a_dry_run_does_everything_but_send(receiver: Receiver) -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    relay(store, targets(target(webhook(receiver))), dry_run=True).run_once(1.0)
    assert (state(store, hold), receiver.received) == (ActionState.DONE, [])
    assert (action(store, hold).receipt, action(store, hold).error) == (b'{"dry_run":true}', "DRY_RUN")
    assert kinds(store, hold.action_id)[-1] == "action.done"


def test_an_open_breaker_leases_nothing_for_that_target_and_lets_the_other_one_work() -> None:
    store = MemoryStore()
    holds = [draft(decision=f"d{number}") for number in range(10)]
    reserve(store, *holds, *(draft("book", decision=f"d{number}") for number in range(10)))
    each, script = scripted(
        store, lambda order: done() if order.name == "book" else not_sent("CONNECT_FAILED"), breaker_failures=3
    )
    each.run_once(100.0)
    names = [order.name for order in script.orders]
    assert (names.count("hold"), names.count("book")) == (3, 10)
    assert each.lanes.circuits(100.0) == {"hold": "open", "book": "closed"}
    assert {state(store, hold) for hold in holds} == {ActionState.PENDING}


def test_with_a_lane_for_each_package_the_payload_says_which_it_is() -> None:
    store, holds = MemoryStore(), [draft(decision=f"d{number}") for number in range(3)]
    reserve(store, *holds)
    script = Script(lambda order: done())
    allowed = targets(*(target(Queue(), packages=(package,), concurrency=1) for package in ("fraud", "other")))
    each = Relay(store, allowed, executors={"hold": script}, owner="r")
    each.run_once(1.0)
    assert [state(store, hold) for hold in holds] == [ActionState.DONE] * 3
    assert each.lanes.room(1.0) == {"hold": each.lanes.places}


def test_a_lost_lease_is_noticed_before_anything_is_sent() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    first, script = scripted(store, lambda order: done())
    second, _ = scripted(store, lambda order: done())
    [leased] = first._lease(1.0, limit=1)
    second.run_once(1000.0)  # the lease has run out; another takes the action and does it
    assert state(store, hold) is ActionState.DONE
    first._perform(leased, lambda: 1001.0)
    assert script.orders == []


def test_a_process_that_was_held_up_after_its_lease_does_not_send() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each, script = scripted(store, lambda order: done())
    [leased] = each._lease(1.0, limit=1)
    each._perform(replace(leased, begun_s=leased.begun_s - 31.0), lambda: 2.0)
    assert (state(store, hold), script.orders) == (ActionState.PENDING, [])
    each.run_once(10.0)
    assert state(store, hold) is ActionState.DONE


def test_an_outcome_that_comes_after_the_lease_ran_out_still_counts() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)

    def slowly(order: Order) -> Outcome:
        second.run_once(1000.0)
        assert state(store, hold) is ActionState.UNKNOWN
        return done(b"late")

    each, _ = scripted(store, slowly)
    second, script = scripted(store, lambda order: done())
    each.run_once(1.0)
    assert (state(store, hold), action(store, hold).receipt, script.orders) == (ActionState.DONE, b"late", [])


def test_an_action_undone_by_the_death_of_another_is_compensated_once_and_only_then() -> None:
    store = MemoryStore()
    hold, book = draft(compensation="release", card="c1"), draft("book")
    lone = draft(decision="d2", compensation="release")
    reserve(store, hold, book, lone)
    script = Script(lambda order: failed("HTTP_409") if order.name == "book" else done())
    names = ("hold", "book", "release")
    allowed = targets(target(Queue(), "hold", undone_by=("book",)), target(Queue(), "book"), target(Queue(), "release"))
    each = Relay(store, allowed, executors=dict.fromkeys(names, script), owner="r")
    for now_s in (1.0, 2.0, 3.0):
        each.run_once(now_s)
    undone = [order for order in script.orders if order.name == "release"]
    assert [(order.arguments, order.decision_id) for order in undone] == [({"card": "c1"}, "d1")]
    assert state(store, lone) is ActionState.DONE


def test_what_has_not_begun_when_the_other_dies_does_not_begin_any_more() -> None:
    store = MemoryStore()
    book, hold = draft("book"), replace(draft(compensation="release"), available_s=50.0)
    reserve(store, book, hold)
    script = Script(lambda order: failed("HTTP_409"))
    allowed = targets(target(Queue(), "hold", undone_by=("book",)), target(Queue(), "book"))
    each = Relay(store, allowed, executors=dict.fromkeys(("hold", "book"), script), owner="r")
    each.run_once(1.0)
    each.run_once(60.0)
    assert [order.name for order in script.orders] == ["book"]
    assert action(store, hold).error == f"UNDONE_BY_{book.action_id}"


def test_in_threads_no_target_gets_more_at_once_than_it_takes_and_everything_is_done_once() -> None:
    def working(order: Order) -> Outcome:
        time.sleep(0.005)
        return done()

    store = MemoryStore()
    drafts = [draft(decision=f"d{number}") for number in range(40)]
    reserve(store, *drafts)
    relays_and_scripts = [scripted(store, working, concurrency=3) for _ in range(2)]
    for each, _ in relays_and_scripts:
        each.start()
    until_s = time.monotonic() + 20.0
    while time.monotonic() < until_s and any(state(store, each) is not ActionState.DONE for each in drafts):
        time.sleep(0.02)
    assert all(each.stop(10.0) for each, _ in relays_and_scripts)
    keys = [order.idempotency_key for _, script in relays_and_scripts for order in script.orders]
    assert sorted(keys) == sorted(each.idempotency_key for each in drafts)
    assert all(script.most <= 3 for _, script in relays_and_scripts)
    assert {kind for each in drafts for kind in kinds(store, each.action_id)} == {
        "action.leased", "action.executing", "action.done",
    }  # fmt: skip


def test_a_started_relay_reacts_to_wake_without_waiting_for_its_poll() -> None:
    store, hold = MemoryStore(), draft()
    script = Script(lambda order: done())
    each = Relay(
        store, targets(target(Queue())), executors={"hold": script}, owner="r", options=RelayOptions(poll_s=30.0)
    )
    each.start()
    time.sleep(0.1)
    reserve(store, hold)
    each.wake()
    until_s = time.monotonic() + 5.0
    while time.monotonic() < until_s and state(store, hold) is not ActionState.DONE:
        time.sleep(0.01)
    assert each.stop()
    assert state(store, hold) is ActionState.DONE


def test_a_store_that_is_away_when_the_outcome_is_known_gets_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    transaction, failures = store.transaction, iter(range(3))

    def act(order: Order) -> Outcome:
        monkeypatch.setattr(store, "transaction", broken)
        return done(b"kept")

    def broken() -> object:
        if next(failures, None) is not None:
            raise ConnectionError
        return transaction()

    each, _ = scripted(store, act)
    each.run_once(1.0)
    assert (state(store, hold), action(store, hold).receipt) == (ActionState.DONE, b"kept")


def test_unknown_stays_unknown_while_the_target_says_nothing() -> None:
    store, hold = MemoryStore(), draft()
    reserve(store, hold)
    each, script = scripted(store, lambda order: unknown("TIMEOUT"))
    script.reconcile = lambda order: unknown("HTTP_500")  # type: ignore[method-assign]
    for now_s in (1.0, 100.0, 10_000.0):
        each.run_once(now_s)
    assert (state(store, hold), len(script.orders)) == (ActionState.UNKNOWN, 1)
