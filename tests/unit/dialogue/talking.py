"""The support dialogue without its model: the real dialogue.toml and articles, and answers as the model gives them."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gallery.support.helpcentre import articles_jsonl, read_pages
from onward.dialogue import ActionStatus, Dialogue, Reply, State, Understood
from onward.package.manifest import load_manifest
from onward.types import ActionCall, Decision

SUPPORT = Path(__file__).parents[3] / "gallery" / "support"
NOW_S = 1_764_072_000.0  # Tuesday, 25 November 2025
PROFILE: dict[str, Any] = {
    "name": "Anna", "language": "en", "plan": "classic", "status": "active", "next_box": "2025-12-04",
    "orders": ["HR-20148", "HR-20117"], "totals": [22.0, 30.0], "states": ["packed", "delivered"],
    "contacts_30d": 0, "last_contact_s": 1e9,
}  # fmt: skip


def write_folder(folder: Path, dialogue: str | None = None) -> Path:
    """A folder with manifest, dialogue and articles, as the package has them."""
    shutil.copyfile(SUPPORT / "onward.toml", folder / "onward.toml")
    text = (SUPPORT / "dialogue.toml").read_text(encoding="utf-8") if dialogue is None else dialogue
    (folder / "dialogue.toml").write_text(text, encoding="utf-8")
    (folder / "articles.jsonl").write_text(articles_jsonl(read_pages()), encoding="utf-8")
    return folder


@functools.cache
def support() -> Dialogue:
    """The dialogue of `support`."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(Path(name))
        dialogue = Dialogue.open(folder, load_manifest(folder))
    assert dialogue is not None
    return dialogue


def answer(
    label: str = "out_of_scope", score: float = 0.95, *, known: float = 0.0, passage: str = ""
) -> dict[str, Any]:
    """What the model makes of a message."""
    return {
        "label": label, "score": score, "labels": [{"label": label, "score": score}], "known": known,
        "passage": passage, "passages": [{"passage": passage, "score": 0.9}] if passage else [],
    }  # fmt: skip


class Talk:
    """One conversation: messages with what the model makes of them, and a policy that does what is confirmed."""

    def __init__(self, profile: dict[str, Any] | None = None) -> None:
        self.dialogue = support()
        self.profile = PROFILE if profile is None else profile
        self.state = State()
        self.understood: Understood | None = None

    def say(self, text: str, label: str = "out_of_scope", score: float = 0.95, **more: Any) -> Reply:
        """The reply; actions are done at once."""
        understood = self.dialogue.understand(self.state, text, answer(label, score, **more), self.profile, NOW_S)
        decision = decide(understood)
        actions = [ActionStatus(action_id="a", name=call.name, state="done") for call in decision.actions]
        reply = self.dialogue.reply(understood, decision, actions, self.profile)
        self.understood, self.state = understood, reply.state
        return reply

    @property
    def step(self) -> str:
        """The last message's step."""
        assert self.understood is not None
        return self.understood.step


def decide(understood: Understood) -> Decision:
    """As a policy would: what is asked for is done, persons are called."""
    if understood.step == "act":
        call = ActionCall(name=str(understood.facts["request"]))
        return Decision(outcome=call.name, rule="act", actions=(call,))
    if understood.step == "handover":
        return Decision(outcome="route:human", rule="human", actions=(ActionCall(name="open_case"),))
    return Decision(outcome="answer", rule="default")
