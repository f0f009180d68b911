"""One message of a conversation, from what the model made of it to the reply: understand, decide, act, say.

The message and its decision are written in one transaction; the reply after the actions have had a moment to be done.
Messages of one conversation are taken one after the other; between two of them the store alone knows where it stands,
so any process can go on with it. Blocking: for a thread. Knows nothing of HTTP, terminals or how models run.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import msgspec

from onward.act.desk import Case, Desk, Recorded, Ruling, Taken
from onward.decide.audit import EVERYTHING
from onward.decide.policy import Facts
from onward.dialogue.dialogue import Dialogue
from onward.dialogue.records import ActionStatus, Reply, State, Understood
from onward.errors import InputError, NotFound
from onward.store.records import ActionState, Conversation, Turn
from onward.store.store import Conflict, Reader, Store, Transaction

CUSTOMER, ASSISTANT = "customer", "assistant"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNSETTLED = (ActionState.PENDING, ActionState.LEASED, ActionState.EXECUTING)
_FIRST_LOOK_S, _LATER_LOOK_S = 0.004, 0.05
_SEARCHED_TURNS = 200
T = TypeVar("T")


class Commits(Protocol):
    """Writes: `onward.store.writer.Writer`."""

    def submit(self, fn: Callable[[Transaction], T], /) -> Any:
        """A future of what `fn` returns, done once it is durable."""
        ...


class Opens(Protocol):
    """Reads what is sealed: `onward.store.keys.Keys`."""

    def open(self, reader: Reader, key_id: str, sealed: bytes, /) -> bytes | None:
        """None where the key is gone."""
        ...


def _no_others(tenant: str, conversation: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a customer says. `customer` is whom the caller has signed in ("": nobody); `conversation` "" begins one."""

    text: str
    customer: str = ""
    conversation: str = ""
    tenant: str = "default"
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The reply to a message, with the decision behind it and where its actions stood when it was said."""

    conversation: str
    reply: Reply
    recorded: Recorded
    actions: tuple[ActionStatus, ...]


class Conversations:
    """The conversations with one version of a package."""

    def __init__(
        self,
        dialogue: Dialogue,
        ruling: Ruling,
        desk: Desk,
        store: Store,
        writer: Commits,
        *,
        keys: Opens | None = None,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        wait_s: float = 2.0,
        secret: bytes = b"",
        turn: Callable[[str, str], AbstractContextManager[None]] = _no_others,
    ) -> None:
        """`keys` opens receipts; `wake` tells the relay of work; a reply waits at most `wait_s` for its actions.

        Where several processes serve together, they have `secret` in common, and `turn` waits for the others.
        """
        self.dialogue = dialogue
        self._ruling = replace(ruling, private=frozenset({EVERYTHING}))
        self._desk = desk
        self._store = store
        self._writer = writer
        self._keys = keys
        self._wake = wake
        self._clock = clock
        self._wait_s = wait_s
        self._secret = secret or _UNGUESSABLE
        self._turn = turn
        self._talking: dict[tuple[str, str], tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()

    def say(
        self, message: Message, answer: Mapping[str, Any] | None, profile: Mapping[str, Any], *, failure: str = ""
    ) -> Told:
        """Take one message; `answer` is the model's (None where it failed, with the error's code as `failure`).

        Raises `InputError` for a conversation id that is none, `NotFound` for somebody else's conversation, `Conflict`
        where another process went on with it meanwhile, and what the desk raises: then nothing was decided.
        """
        conversation = message.conversation or _new_id(message, self._secret)
        if _ID.fullmatch(conversation) is None:
            raise InputError(
                where="conversation", expected="up to 64 letters, digits, - and _", found=conversation[:64]
            )
        with self._alone(message.tenant, conversation):
            return self._say(replace(message, conversation=conversation), answer, profile, failure)

    def _say(
        self, message: Message, answer: Mapping[str, Any] | None, profile: Mapping[str, Any], failure: str
    ) -> Told:
        dialogue = self.dialogue
        state, place = self._where(message)
        text = dialogue.bounded(message.text)
        now_s = self._clock()
        understood = dialogue.understand(state, text, answer, profile, now_s)
        if answer is None:  # nothing was understood, and nothing may come of it
            understood = replace(
                understood, state=state, step="unknown", facts=dialogue.no_facts(), notes=(), wish=None
            )
        facts = Facts(
            answer=answer, input={"text": text, "customer": message.customer, **understood.facts}, profile=profile,
            now_s=now_s, failure=failure,
        )  # fmt: skip
        future = self._desk.record(
            self._ruling, [Case(facts=facts, entity=message.customer)], tenant=message.tenant,
            idempotency_key=message.idempotency_key,
            also=lambda tx, recorded: self._hear(tx, message, text, understood, recorded, place, now_s),
        )  # fmt: skip
        recorded: Recorded = future.result()[0]
        self._wake()
        actions = self._settled(recorded)
        said = self._said(message, recorded) if recorded.repeated else None
        if said is None:
            if answer is None:
                said = Reply(text=dialogue.unavailable(profile), state=state)
            else:
                said = dialogue.reply(understood, recorded.decision, actions, profile)
            self._keep(message, said, recorded.decision_id)
        return Told(conversation=message.conversation, reply=said, recorded=recorded, actions=actions)

    def _where(self, message: Message) -> tuple[State, int]:
        """The state of the conversation and the index of its next turn."""
        with self._store.snapshot() as reader:
            conversation = reader.conversation(message.tenant, message.conversation)
            if conversation is None:
                return State(), 0
            if conversation.entity != message.customer or conversation.model != self._ruling.package.name:
                raise NotFound("there is no such conversation", where="conversation")
            turns = reader.turns(message.tenant, message.conversation, limit=1)
        return (self.dialogue.state_of(turns[-1].content), turns[-1].index + 1) if turns else (State(), 0)

    def _hear(
        self,
        tx: Transaction,
        message: Message,
        text: str,
        understood: Understood,
        recorded: Sequence[Recorded],
        place: int,
        now_s: float,
    ) -> None:
        """Write the message in its decision's transaction. `Conflict` where the conversation has gone on."""
        if place == 0 and tx.conversation(message.tenant, message.conversation) is None:
            tx.open_conversation(
                Conversation(
                    conversation_id=message.conversation, tenant=message.tenant, entity=message.customer,
                    model=self._ruling.package.name, created_s=now_s,
                )
            )  # fmt: skip
        content = self.dialogue.customer_turn(text, understood, recorded[0].decision_id)
        turn = Turn(conversation_id=message.conversation, index=place, role=CUSTOMER, content=content, at_s=now_s)
        tx.append_turn(message.tenant, turn)

    def _keep(self, message: Message, reply: Reply, decision_id: str) -> None:
        content = self.dialogue.assistant_turn(reply, decision_id)
        now_s = self._clock()

        def work(tx: Transaction) -> None:
            last = tx.turns(message.tenant, message.conversation, limit=1)
            if not last or last[-1].role != CUSTOMER:
                return  # erased meanwhile, or another process has gone on: its state is the newer one
            turn = Turn(
                conversation_id=message.conversation,
                index=last[-1].index + 1,
                role=ASSISTANT,
                content=content,
                at_s=now_s,
            )
            tx.append_turn(message.tenant, turn)

        self._writer.submit(work).result()

    def _said(self, message: Message, recorded: Recorded) -> Reply | None:
        """What was replied when this request came first."""
        with self._store.snapshot() as reader:
            turns = reader.turns(message.tenant, message.conversation, limit=_SEARCHED_TURNS)
        contents = [turn.content for turn in turns if turn.role == ASSISTANT]
        return self.dialogue.reply_of(contents, recorded.decision_id)

    def _settled(self, recorded: Recorded) -> tuple[ActionStatus, ...]:
        """Where the decision's actions stand, once all are settled or the time for it is up."""
        until_s = time.monotonic() + self._wait_s
        pause_s = _FIRST_LOOK_S
        while True:
            with self._store.snapshot() as reader:
                found = tuple(self._status(reader, taken) for taken in recorded.actions)
            if not any(status.state in _UNSETTLED_WORDS for status in found) or time.monotonic() >= until_s:
                return found
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LATER_LOOK_S)

    def _status(self, reader: Reader, taken: Taken) -> ActionStatus:
        action = reader.action(taken.action_id)
        if action is None:
            return ActionStatus(action_id=taken.action_id, name=taken.name, state=taken.state)
        receipt, key_id = action.receipt, action.draft.key_id
        if receipt and key_id:
            receipt = (self._keys.open(reader, key_id, receipt) if self._keys is not None else None) or b""
        return ActionStatus(
            action_id=taken.action_id, name=taken.name, state=action.state.value, receipt=receipt, error=action.error
        )

    @contextmanager
    def _alone(self, tenant: str, conversation: str) -> Iterator[None]:
        """One message of a conversation at a time. Locks live only while somebody holds or waits for them."""
        key = (tenant, conversation)
        with self._guard:
            lock, users = self._talking.get(key, (threading.Lock(), 0))
            self._talking[key] = (lock, users + 1)
        try:
            with lock, self._turn(tenant, conversation):
                yield
        finally:
            with self._guard:
                lock, users = self._talking[key]
                if users == 1:
                    del self._talking[key]
                else:
                    self._talking[key] = (lock, users - 1)


def _new_id(message: Message, unguessable: bytes) -> str:
    """The id of the conversation that a message begins: the same for the same request, sent again under its key.

    Who is not signed in has nothing but the id to show for a conversation, so it must not follow from a key that
    somebody else may guess: theirs is the same for as long as this process, or the server's supervisor, lives.
    """
    if not message.idempotency_key:
        return f"c_{secrets.token_hex(12)}"
    parts = [message.tenant, message.customer, message.idempotency_key]
    secret = b"" if message.customer else unguessable
    return f"c_{hashlib.sha256(b'onward-conversation-1' + secret + msgspec.json.encode(parts)).hexdigest()[:24]}"


_UNGUESSABLE = secrets.token_bytes(32)
_UNSETTLED_WORDS = frozenset(state.value for state in _UNSETTLED)


def told_json(dialogue: Dialogue, told: Told) -> dict[str, Any]:
    """A told reply as JSON can hold it: what `POST /models/{name}` answers, but for the package's name and version."""
    decision = told.recorded.decision
    actions = [
        {"action_id": each.action_id, "name": each.name, "state": each.state, "receipt": _receipt(each.receipt)}
        for each in told.actions
    ]
    return {
        "reply": told.reply.text,
        "intent": told.reply.intent,
        "conversation": told.conversation,
        "article": dialogue.article(told.reply.article) if told.reply.article else None,
        "decision": {
            "outcome": decision.outcome, "rule": decision.rule, "reasons": list(decision.reasons),
            "arguments": dict(decision.arguments), "decision_id": told.recorded.decision_id, "actions": actions,
        },
        "actions": actions,
    }  # fmt: skip


def _receipt(receipt: bytes) -> Any:
    """A target's answer where it is JSON; else nothing: what a target says besides is the operator's to read."""
    try:
        return msgspec.json.decode(receipt) if receipt else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


__all__ = ["Conflict", "Conversations", "Message", "Told", "told_json"]
