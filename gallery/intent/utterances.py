"""The hand-written training utterances and the names of the intents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

TRAIN_FILE = Path(__file__).with_name("data") / "train.jsonl"
OUT_OF_SCOPE = "out_of_scope"


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """What a customer wrote, and the intent behind it."""

    text: str
    intent: str


def read_utterances(file: Path = TRAIN_FILE) -> list[Utterance]:
    """The utterances of a JSON Lines file, in its order. Raises KeyError or ValueError for a malformed line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [Utterance(text=str(row["text"]), intent=str(row["intent"])) for row in rows]


def intents(utterances: list[Utterance]) -> list[str]:
    """The intents in order of first appearance, out_of_scope last."""
    seen = dict.fromkeys(utterance.intent for utterance in utterances if utterance.intent != OUT_OF_SCOPE)
    return [*seen, OUT_OF_SCOPE]
