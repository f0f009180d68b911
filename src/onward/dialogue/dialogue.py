"""A package's dialogue, opened: a message in, what the policy is told out; a decision in, what is said out.

Pure: whatever a conversation needs to go on is in its state, which the caller keeps. Safe to use from many threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from onward.dialogue.definition import load_definition
from onward.dialogue.hearing import bounded, hear
from onward.dialogue.records import ZERO_OF_FACT, ActionStatus, Definition, Reply, State, Understood, Wish
from onward.dialogue.understanding import Turn, advance, today_of, understand_heard
from onward.dialogue.wording import Wording
from onward.package.manifest import DIALOGUE_FILE, load_manifest
from onward.package.records import Manifest
from onward.types import Decision

_MOST_STATE_BYTES = 32_768
_SHORT_WORDS = 5
_ENDED = {"done": "done", "waiting": "waiting", "refused": "refused"}
_RUNNING = ("pending", "leased", "executing", "unknown")


class Dialogue:
    """The dialogue that a package's `dialogue.toml` describes."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition

    @classmethod
    def open(cls, folder: Path, manifest: Manifest | None = None) -> Dialogue | None:
        """The dialogue of a package folder, None where it has none. Raises `ManifestError` with file, line and key."""
        if not (folder / DIALOGUE_FILE).is_file():
            return None
        return cls(load_definition(folder, manifest or load_manifest(folder)))

    def bounded(self, text: str) -> str:
        """A message as it is worked with and kept: without control characters, at most `max_characters` long."""
        return bounded(text, self.definition.settings.max_characters)

    def understand(
        self, state: State, text: str, answer: Mapping[str, Any] | None, profile: Mapping[str, Any], now_s: float
    ) -> Understood:
        """The message's place in the dialogue. Never raises, whatever the text.

        `answer` is the model's (None: it gave none, and words have to do); `profile` the features of the manifest.
        """
        state = self._checked(state)
        text = self.bounded(text)
        awaited = self._awaited(state, text)
        heard = hear(self.definition, text, answer or {}, today=today_of(now_s), profile=profile, awaited=awaited)
        return understand_heard(Turn(definition=self.definition, state=state, heard=heard, profile=profile))

    def _awaited(self, state: State, text: str) -> str:
        """The slot that a bare number or text would be for: the one asked for, or the amount in a short "no, 20"."""
        if state.awaiting.startswith("slot:"):
            return state.awaiting.removeprefix("slot:")
        if state.awaiting == "confirm" and state.wish is not None and len(text.split()) <= _SHORT_WORDS:
            request = self.definition.requests[state.wish.request]
            names = (*request.slots, *request.optional)
            return next((name for name in names if self.definition.slots[name].type == "amount"), "")
        return ""

    def reply(
        self,
        understood: Understood,
        decision: Decision,
        actions: Sequence[ActionStatus] = (),
        profile: Mapping[str, Any] | None = None,
    ) -> Reply:
        """What is said of the decision and of how far its actions have come, and the state to go on from."""
        profile = profile or {}
        receipt: dict[str, Any] = {}
        for action in actions:
            receipt |= _object(action.receipt)
        quote = understood.quote
        values = {
            **understood.values, "profile": profile, "arguments": dict(decision.arguments), "receipt": receipt,
            "quote": quote.sentence if quote else "",
            "article": {"title": quote.article.title, "url": quote.article.url} if quote else {},
        }  # fmt: skip
        said = Wording(definition=self.definition, values=values)
        texts = [_note(said, note) for note in understood.notes]
        if quote is not None and understood.step != "answer":
            texts.append(said.say("answer"))
        state = understood.state
        if understood.step == "act" and understood.wish is not None:
            status = _status(actions)
            texts.append(_acted(said, understood.wish.request, decision.outcome, status))
            state, more = self._go_on(state, profile, offer=status in ("failed", "none"), outcome=decision.outcome)
            texts += more
        elif understood.step == "abort":
            texts.append(said.say("abort"))
            state, more = self._go_on(state, profile)
            texts += more
        elif understood.step == "handover":
            status = _status(actions)
            texts.append(said.say("handover.failed" if status == "none" else f"handover.{status}", "handover"))
        elif understood.step in ("ask", "confirm"):
            texts.append(self._prompt(said, state))
        elif understood.step == "answer":
            texts.append(said.say("answer"))
            texts.append(self._prompt(said, state) if state.wish else self._offer(said, state))
        elif understood.step == "talk":
            texts.append(said.say(understood.say or "welcome"))
            texts.append(self._prompt(said, state) if state.wish else "")
        else:
            texts.append(said.say(understood.step))
        text = "\n".join(dict.fromkeys(filter(None, texts))) or said.say("unclear")
        article = quote.article.article_id if quote else ""
        return Reply(text=text, state=state, intent=understood.intent, article=article)

    def _go_on(
        self, state: State, profile: Mapping[str, Any], *, offer: bool = False, outcome: str = ""
    ) -> tuple[State, list[str]]:
        """After something has ended: the next wish of the queue, or an offer of a person where it went wrong."""
        said = Wording(definition=self.definition, values={"profile": profile})
        if state.queue:
            wish, *rest = state.queue
            # What waits was asked for in one breath with something else: nothing of it happens without a yes.
            following, _ = advance(self.definition, wish, profile, ask_first=True)
            following = replace(following, queue=tuple(rest), last=state.last, turns=state.turns)
            values = {
                **(following.wish.slots if following.wish else {}),
                "options": following.options,
                "profile": profile,
            }
            return following, [self._prompt(Wording(definition=self.definition, values=values), following)]
        if offer:
            is_answer = state.last is not None and f"{state.last.request}.{outcome}" in self.definition.says
            if not is_answer or outcome == "review":
                return replace(state, awaiting="offer:human"), [said.say("offer")]
        return state, []

    def _prompt(self, said: Wording, state: State) -> str:
        if state.wish is None:
            return ""
        request = state.wish.request
        if state.awaiting.startswith("slot:"):
            slot = state.awaiting.removeprefix("slot:")
            return said.say(f"{request}.ask.{slot}", f"ask.{slot}")
        return said.say(f"{request}.confirm")

    def _offer(self, said: Wording, state: State) -> str:
        offer = state.awaiting.removeprefix("offer:") if state.awaiting.startswith("offer:") else ""
        return said.say(f"{offer}.offer") if offer else ""

    def no_facts(self) -> dict[str, Any]:
        """What the policy is told where nothing was understood: zeros."""
        return {name: ZERO_OF_FACT[kind] for name, kind in self.definition.facts.items()}

    def unavailable(self, profile: Mapping[str, Any]) -> str:
        """What is said where the model gave no answer."""
        return Wording(definition=self.definition, values={"profile": profile}).say("unavailable")

    def state_of(self, content: bytes) -> State:
        """The state in the content of a conversation's latest turn; a new one for b"" or what cannot be read."""
        if not content or len(content) > 2 * _MOST_STATE_BYTES:
            return State()
        try:
            turn = msgspec.json.decode(content)
            return self._checked(msgspec.convert(turn["state"], State))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            return State()

    def customer_turn(self, text: str, understood: Understood, decision_id: str) -> bytes:
        """A customer's message as a turn's content, with the state it leads to."""
        return _content(
            text=self.bounded(text), state=understood.state, decision_id=decision_id, intent=understood.intent
        )

    def assistant_turn(self, reply: Reply, decision_id: str) -> bytes:
        """A reply as a turn's content."""
        return _content(
            text=reply.text, state=reply.state, decision_id=decision_id, intent=reply.intent, article=reply.article
        )

    def reply_of(self, contents: Sequence[bytes], decision_id: str) -> Reply | None:
        """The reply that was given to a decision, found among the contents of the conversation's assistant turns."""
        for content in reversed(contents):
            try:
                turn = msgspec.json.decode(content)
                if turn["decision_id"] == decision_id:
                    return Reply(
                        text=str(turn["text"]), state=self.state_of(content), intent=str(turn.get("intent", "")),
                        article=str(turn.get("article", "")),
                    )  # fmt: skip
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
                continue
        return None

    def article(self, article_id: str) -> Mapping[str, str] | None:
        """An article as an answer shows it: id, title, url."""
        article = self.definition.articles.get(article_id)
        return None if article is None else {"id": article.article_id, "title": article.title, "url": article.url}

    def _checked(self, state: State) -> State:
        """The state if this version of the dialogue can go on from it, else a new one: a package may have changed."""
        definition = self.definition
        wishes = [wish for wish in (state.wish, state.last, *state.queue) if wish is not None]
        if not all(self._knows(wish) for wish in wishes):
            return State(held=state.held, turns=max(state.turns, 0))
        awaiting = state.awaiting
        kind, _, name = awaiting.partition(":")
        needs_wish = awaiting == "confirm" or kind == "slot"
        fits = (
            awaiting in ("", "confirm") or (kind == "slot" and name in definition.slots)
            or (kind == "offer" and (name == "human" or name in definition.requests))
        )  # fmt: skip
        if not fits or (needs_wish and state.wish is None):
            return State(held=state.held, turns=max(state.turns, 0))
        return replace(state, queue=state.queue[:2], options=state.options[:5])

    def _knows(self, wish: Wish) -> bool:
        request = self.definition.requests.get(wish.request)
        return request is not None and set(wish.slots) <= {*request.slots, *request.optional}


def _status(actions: Sequence[ActionStatus]) -> str:
    """How far the actions have come, all together: the one that is worst off counts."""
    states = {action.state for action in actions}
    if not states:
        return "none"
    if states & {"denied", "dead"}:
        return "failed"
    if states & set(_RUNNING):
        return "pending"
    return next((word for state, word in _ENDED.items() if state in states and state != "done"), "done")


def _acted(said: Wording, request: str, outcome: str, status: str) -> str:
    if status == "none":
        return said.say(f"{request}.{outcome}", f"act.{outcome}", "act.later")
    return said.say(f"{request}.{outcome}.{status}", f"{request}.{status}", f"act.{status}", "act.later")


def _note(said: Wording, note: str) -> str:
    """A remark by its key; `trouble.order.unknown` falls back to `trouble.unknown`, `unclear.order` to `unclear`."""
    parts = note.split(".")
    return said.say(note, ".".join((parts[0], parts[-1])), parts[0])


def _object(receipt: bytes) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(receipt) if receipt else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _content(*, text: str, state: State, decision_id: str, intent: str, article: str = "") -> bytes:
    turn = {"text": text, "decision_id": decision_id, "intent": intent, "article": article, "state": state}
    return msgspec.json.encode(turn)
