"""What a model says of each token becomes the entities of a text: words first, then words of one entity together.

Words are those of the tokenizer. The labels are of the BIO kind: `B-PER` begins an entity, `I-PER` goes on with it, and
`O` is none; where a model has only plain names, neighbours of one name are one entity. E and L stand for I, S and U for
B, as in BIOES and BILOU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onward.errors import ExecutionError, PackageError
from onward.package.records import Entities, Manifest, Tokenize
from onward.package.signature import read_labels
from onward.prepare.text import TokenizePreparation
from onward.types import Array, Item

Entity: TypeAlias = dict[str, Any]
NONE = "O"
_BEGINS = frozenset({"B", "S", "U"})
_GOES_ON = frozenset({"I", "E", "L"})


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of the text, from character `start` up to `end`, with its best label."""

    start: int
    end: int
    label: str
    score: float


class EntityReading:
    """One entities step, ready: answers `{output: [entity, …]}` from the scores of an item's tokens."""

    def __init__(self, step: Entities, manifest: Manifest, folder: Path) -> None:
        self._step = step
        self._labels = read_labels(folder / step.file)
        tokenize = next(
            (one for one in manifest.prepare if isinstance(one, Tokenize) and one.input == step.input), None
        )
        if tokenize is None:
            raise PackageError(f'no step makes tokens of "{step.input}"', expected="a step `tokenize` in [[prepare]]")
        field = next(field for field in manifest.inputs if field.name == step.input)
        self._tokens = TokenizePreparation(
            folder / tokenize.file, field, max_tokens=tokenize.max_tokens, outputs=tokenize.outputs
        )

    def __call__(self, scores: Array, item: Item) -> tuple[Mapping[str, list[Entity]], Array]:
        """The entities, and the scores of the item's own tokens: [tokens + padding, labels] → [tokens, labels]."""
        text, encoding = self._tokens.encode(item)
        count = len(encoding.ids)
        if len(scores) < count or scores.shape[-1] != len(self._labels):
            raise ExecutionError("the model gave other scores than the text has tokens",
                                 expected=f"[{count}, {len(self._labels)}]", found=str(list(scores.shape)))  # fmt: skip
        own = scores[:count]
        words = self._words(own, encoding.word_ids, encoding.offsets)
        return {self._step.output: [_entity(group, text) for group in grouped(words)]}, own

    def _words(self, scores: Array, places: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> list[_Word]:
        """The words in order; tokens that are no part of the text are of none."""
        words: list[_Word] = []
        start = 0
        while start < len(places):
            end = start + 1
            while end < len(places) and places[end] == places[start]:
                end += 1
            if places[start] is not None:
                label, score = self._best(scores[start:end])
                words.append(_Word(offsets[start][0], offsets[end - 1][1], label, score))
            start = end
        return words

    def _best(self, scores: Array) -> tuple[str, float]:
        """The label of a word, of the scores of its tokens [tokens, labels]."""
        way = self._step.aggregate
        row = scores[0]
        if way == "mean":
            row = scores.mean(axis=0)
        elif way == "max":
            row = scores[int(scores.max(axis=1).argmax())]
        best = int(np.argmax(row))
        return self._labels[best], float(row[best])


def grouped(words: Sequence[_Word]) -> list[list[_Word]]:
    """Neighbouring words of one entity; words that are of none are left out."""
    groups: list[list[_Word]] = []
    last = NONE
    for word in words:
        begins, name = _tag(word.label)
        if name == NONE:
            last = NONE
            continue
        if begins or name != last:
            groups.append([])
        groups[-1].append(word)
        last = name
    return groups


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its name: `B-PER` → yes, `PER`."""
    first, dash, name = label.partition("-")
    if dash and name and first in _BEGINS:
        return True, name
    return False, name if dash and name and first in _GOES_ON else label


def _entity(words: Sequence[_Word], text: str) -> Entity:
    start, end = words[0].start, words[-1].end
    # Some tokenizers take the space in front for a part of the word.
    start += len(text[start:end]) - len(text[start:end].lstrip())
    end -= len(text[start:end]) - len(text[start:end].rstrip())
    score = float(np.mean([word.score for word in words]))
    return {"label": _tag(words[0].label)[1], "score": score, "text": text[start:end], "start": start, "end": end}
