"""Actions in an outbox, and how they stand, for the tests of `act`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onward.act import outbox
from onward.act.backoff import Backoff
from onward.act.executor import Order
from onward.act.targets import How, Target, Targets
from onward.act.webhook import Webhook
from onward.store.records import Action, ActionDraft, ActionState
from onward.store.store import Store
from tests.unit.act.receiver import Receiver

PACKAGE = {"name": "fraud", "version": "1", "digest": "d"}


def draft(name: str = "hold", *, decision: str = "d1", index: int = 0, **arguments: Any) -> ActionDraft:
    """An action as the outbox reserves it."""
    key = f"{decision}:{name}:{index}"
    compensation = arguments.pop("compensation", "")
    value = {"name": name, "arguments": arguments, "decision_id": decision, "tenant": "t", "package": PACKAGE}
    payload = outbox.canonical(value | ({"compensation": compensation} if compensation else {}))
    return ActionDraft(
        action_id=outbox.action_id_of("t", key),
        tenant="t",
        idempotency_key=key,
        decision_id=decision,
        name=name,
        payload=payload,
        payload_digest=outbox.digest_of(payload),
        created_s=0.0,
        available_s=0.0,
    )


def reserve(store: Store, *drafts: ActionDraft) -> None:
    with store.transaction() as tx:
        for each in drafts:
            tx.reserve(each)


def action(store: Store, draft: ActionDraft) -> Action:
    with store.snapshot() as reader:
        found = reader.action(draft.action_id)
    assert found is not None
    return found


def state(store: Store, draft: ActionDraft) -> ActionState:
    return action(store, draft).state


def kinds(store: Store, subject: str) -> list[str]:
    """The kinds of the audit entries about one action or approval."""
    with store.snapshot() as reader:
        return [entry.draft.kind for entry in reader.audit_of(subject)]


def order(name: str = "hold", **arguments: Any) -> Order:
    """An order as a target gets it."""
    made = draft(name, **arguments)
    return Order(
        action_id=made.action_id,
        idempotency_key=made.idempotency_key,
        decision_id=made.decision_id,
        tenant=made.tenant,
        name=name,
        package="fraud",
        arguments=arguments,
        payload=made.payload,
        created_s=1_700_000_000.25,
    )


def webhook(receiver: Receiver, **settings: Any) -> Webhook:
    usual: dict[str, Any] = {"url": receiver.url, "status_url": receiver.status_url, "allow_private": True}
    return Webhook(**{**usual, "timeout_s": 5.0, "secrets": (b"s3cret",), **settings})


def target(how: How, name: str = "hold", **settings: Any) -> Target:
    usual: dict[str, Any] = {"backoff": Backoff(first_s=1.0, longest_s=4.0), "reconcile_after_s": 1.0}
    usual |= {"breaker_failures": 1000}
    return Target(**{"action": name, "packages": ("fraud",), "kind": "test", "how": how, **usual, **settings})


def targets(*some: Target) -> Targets:
    return Targets(targets=some)


def without_status(how: Webhook) -> Webhook:
    return replace(how, status_url="")
