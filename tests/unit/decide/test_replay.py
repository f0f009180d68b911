"""Every recorded decision comes out again bit for bit; what does not, or cannot, is told apart."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import msgspec

from onward.decide.audit import RecordedDecision, record_decision
from onward.decide.policy import Facts
from onward.decide.proof import entries_of, prove
from onward.decide.replay import Replay, Verdict, replay
from onward.errors import ExecutionError
from onward.store.chain import link
from onward.store.memory import MemoryStore
from onward.store.records import AuditEntry
from onward.types import Decision
from tests.unit.decide.decisions import PACKAGE, Hashing, PlainKeys


def random_facts(rng: random.Random) -> Facts:
    """Numbers of every size, down to the last bit."""

    def number() -> float:
        return rng.uniform(-1, 1) * 10.0 ** rng.randint(-300, 300)

    return Facts(
        answer={"probability": rng.random(), "label": rng.choice("ab")} if rng.random() < 0.9 else None,
        input={"amount": number(), "card": f"c{rng.randint(0, 30)}", "n": rng.getrandbits(63)},
        profile={"spent_1h": number(), "seen": [number(), number()]} if rng.random() < 0.5 else {},
        now_s=rng.uniform(0, 4e9),
        recent={"approve": rng.randint(0, 9)},
        failure=rng.choice(["", "QUEUE_FULL"]),
    )


def filled(count: int, rules: Hashing | None = None) -> MemoryStore:
    """A store with that many decisions about thirty entities."""
    store, rng, rules = MemoryStore(), random.Random(count), rules or Hashing()
    with store.transaction() as tx:
        for index in range(count):
            seen = random_facts(rng)
            record_decision(
                tx, PlainKeys(), decision_id=f"d{index}", tenant="t", entity=str(seen.input["card"]), package=PACKAGE,
                rules=rules, facts=seen, decision=rules.decide(seen), private_fields={"card"}, at_s=float(index),
            )  # fmt: skip
    return store


def again(store: MemoryStore, find: Callable[[RecordedDecision], Hashing | None] | None = None) -> Replay:
    with store.snapshot() as reader:
        return replay(entries_of(reader), find or (lambda recorded: Hashing()), keys=PlainKeys(), reader=reader)


def test_a_thousand_random_decisions_come_out_bit_for_bit() -> None:
    report = again(filled(1000))
    assert report.verdicts == {Verdict.SAME: 1000}
    assert report.proven


def test_an_erased_entity_is_erased_the_others_come_out_and_the_chain_holds() -> None:
    store = filled(200)
    with store.snapshot() as reader:
        of_c7 = sum(entry.draft.key_id == reader.key_of("t", "c7").key_id for entry in entries_of(reader))  # type: ignore[union-attr]
    with store.transaction() as tx:
        tx.erase_entity("t", "c7", 1e9)
    report = again(store)
    assert report.verdicts == {Verdict.SAME: 200 - of_c7, Verdict.ERASED: of_c7}
    assert of_c7 > 0
    assert report.proven
    with store.snapshot() as reader:
        assert prove(entries_of(reader)).broken_at is None


def test_another_policy_shows_which_outcomes_change_into_which() -> None:
    report = again(filled(300), lambda recorded: Hashing(salt="new"))
    assert not report.proven
    assert report.decisions == report.verdicts[Verdict.DIFFERENT] == 300
    assert report.changes.total() == 300
    assert {before for before, _ in report.changes} == {"approve", "review", "decline"}
    first = report.findings[0]
    assert first.recorded is not None and first.replayed is not None
    assert first.recorded["rule"] != first.replayed["rule"]
    assert len(report.findings) == 100


def test_the_policy_is_looked_up_by_what_the_entry_says_of_it() -> None:
    asked: set[tuple[str, str]] = set()

    def find(recorded: RecordedDecision) -> Hashing | None:
        asked.add((recorded.package.digest, recorded.policy_digest))
        return None

    report = again(filled(5), find)
    assert asked == {(PACKAGE.digest, Hashing().digest)}
    assert report.verdicts == {Verdict.NO_POLICY: 5}
    assert not report.proven


def test_without_keys_sealed_decisions_are_not_said_to_be_proven() -> None:
    with filled(5).snapshot() as reader:
        report = replay(entries_of(reader), lambda recorded: Hashing())
    assert report.verdicts == {Verdict.SEALED: 5}
    assert not report.proven


def forged(entry: AuditEntry, before: bytes, after: bytes) -> AuditEntry:
    assert before in entry.draft.body
    return link(replace(entry.draft, body=entry.draft.body.replace(before, after)), None)


def test_a_forged_outcome_is_found_though_its_chain_was_made_anew() -> None:
    store = filled(1)
    with store.snapshot() as reader:
        (entry,) = entries_of(reader)
        outcome = msgspec.json.decode(entry.draft.body)["decision"]["outcome"].encode()
        changed = forged(entry, b'"outcome":"%s"' % outcome, b'"outcome":"refund"')
        report = replay([changed], lambda recorded: Hashing(), keys=PlainKeys(), reader=reader)
    assert report.changes == {("refund", outcome.decode()): 1}


def test_the_smallest_change_of_a_number_is_a_difference() -> None:
    class Drifting(Hashing):
        def decide(self, facts: Facts) -> Decision:
            decision = super().decide(facts)
            mark = decision.arguments["mark"] * (1 + 2**-52)
            return replace(decision, arguments={**decision.arguments, "mark": mark})

    assert again(filled(20), lambda recorded: Drifting()).verdicts == {Verdict.DIFFERENT: 20}


def test_unreadable_entries_and_failing_policies_are_told_apart_and_end_nothing() -> None:
    class Failing(Hashing):
        def decide(self, facts: Facts) -> Decision:
            raise ExecutionError("no")

    store = filled(2)
    with store.snapshot() as reader:
        first, second = entries_of(reader)
        broken = forged(first, b'"format":1', b'"format":9')
        report = replay([broken, second], lambda recorded: Failing(), keys=PlainKeys(), reader=reader)
    assert report.verdicts == {Verdict.UNREADABLE: 1, Verdict.FAILED: 1}
    assert [finding.why for finding in report.findings if "EXECUTION_FAILED" in finding.why]


def test_decisions_of_other_policies_can_be_passed_over() -> None:
    with filled(3).snapshot() as reader:
        for name, count in (("hashing", 3), ("another", 0)):
            report = replay(entries_of(reader), lambda recorded: Hashing(), keys=PlainKeys(), reader=reader, only=name)
            assert report.decisions == count


def test_entries_that_are_no_decisions_are_passed_over() -> None:
    store = filled(3)
    with store.snapshot() as reader:
        others = [replace(each, draft=replace(each.draft, kind="action.done")) for each in entries_of(reader)]
        assert replay(others, lambda recorded: Hashing()).decisions == 0
