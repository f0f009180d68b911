"""The records of a dialogue: what `dialogue.toml` says, what a conversation has come to, what is said.

All frozen, and plain values inside. Knows nothing of files, models, policies' rules or stores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SlotType = Literal["pattern", "choice", "date", "amount", "email", "text"]
Step = Literal["ask", "confirm", "act", "answer", "unknown", "talk", "handover", "abort", "held"]
STEPS: tuple[str, ...] = ("ask", "confirm", "act", "answer", "unknown", "talk", "handover", "abort", "held")
#: What the dialogue tells the policy besides the slots, and the type of each in the words of policies.
STANDARD_FACTS: Mapping[str, str] = {
    "step": "string", "request": "string", "intent": "string", "article": "string", "confirmed": "boolean",
    "misunderstood": "integer", "turns": "integer",
}  # fmt: skip
FACT_OF_SLOT: Mapping[str, str] = {
    "pattern": "string", "choice": "string", "date": "string", "amount": "number", "email": "string", "text": "string",
}  # fmt: skip
ZERO_OF_FACT: Mapping[str, Any] = {"string": "", "number": 0.0, "integer": 0, "boolean": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A value that the profile has for another slot's value: the total of the order that was named.

    `keys` and `values` are two lists of the profile, of the same events in the same order.
    """

    slot: str
    keys: str
    values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """`[[slot]]`: a detail that requests need, how it is found in a message, and what it may be.

    `among` names a list of the profile that holds the possible values, newest first; `lookup` gives the value where
    the customer gives none, and the most that it may be.
    """

    name: str
    type: SlotType
    pattern: re.Pattern[str] | None = None
    form: str = "{}"
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    among: str = ""
    lookup: Lookup | None = None
    minimum: float | None = None
    maximum: float | None = None
    currency: str = ""
    max_days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`[[request]]`: something that customers want done. `slots` are asked for, in order; `optional` ones are not.

    `confirm` asks before anything happens; `words` betray it in one clause of a longer message.
    """

    name: str
    slots: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    confirm: bool = True
    words: tuple[str, ...] = ()
    article: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """`[[intent]]`: what a label of the model stands for: a request, small talk, an answer, or a yes or no."""

    name: str
    request: str = ""
    say: str = ""
    answer: bool = False
    article: str = ""
    means: Literal["", "yes", "no", "human"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """`[[say]]`: a text for a key, in a language ("": any), where the profile's values are those of `when`."""

    key: str
    text: str
    language: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """One article of the help centre."""

    article_id: str
    title: str
    url: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`[dialogue]`: the measures of a conversation."""

    language: str = "en"
    articles: str = ""
    misunderstandings: int = 2
    max_characters: int = 2000
    least_score: float = 0.4
    least_known: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A whole `dialogue.toml`, with the articles that it names."""

    settings: Settings
    facts: Mapping[str, str]
    words: Mapping[str, tuple[str, ...]]
    slots: Mapping[str, Slot]
    requests: Mapping[str, Request]
    intents: Mapping[str, Intent]
    says: Mapping[str, tuple[Say, ...]]
    articles: Mapping[str, Article]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A request with the details known so far, by slot."""

    request: str
    slots: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a conversation has come to: small, and JSON. `awaiting` says what the next message should be:

    "" (anything), "confirm", "slot:NAME", "offer:REQUEST" or "offer:human". `queue` are wishes still to come,
    `options` the values shown last, `last` the wish that was dealt with last, `held` that a person has taken over.
    """

    wish: Wish | None = None
    awaiting: str = ""
    queue: tuple[Wish, ...] = ()
    options: tuple[str, ...] = ()
    last: Wish | None = None
    misunderstood: int = 0
    held: bool = False
    turns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A sentence of an article, and the probability that the help centre answers the question."""

    article: Article
    sentence: str
    known: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A message in its dialogue: the next state, what the policy is told, and what the reply is made of.

    `facts` are plain values for `input.NAME` of the policy. `notes` are keys of what is said before the step itself.
    """

    state: State
    facts: Mapping[str, Any]
    step: Step
    intent: str = ""
    wish: Wish | None = None
    quote: Quote | None = None
    say: str = ""
    notes: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionStatus:
    """Where an action of the decision stands when the reply is made; `receipt` is what its target answered."""

    action_id: str
    name: str
    state: str
    receipt: bytes = b""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is said, and the state that the next message meets. `article` is the quoted one's id, or ""."""

    text: str
    state: State
    intent: str = ""
    article: str = ""
