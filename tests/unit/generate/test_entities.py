"""Tokens' labels become entities: words, tags, and where they stand in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from onward.errors import ExecutionError, ManifestError
from onward.generate.entities import EntityReading, grouped
from onward.package.manifest import parse_manifest
from tests.unit.package.importers.families import tokenizer

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
MANIFEST = """format = 1
[package]
name = "ner"
version = "1.0.0"
[[input]]
name = "text"
datatype = "BYTES"
content = "text"
[[output]]
name = "probabilities"
datatype = "FP32"
shape = [-1, 5]
on_request = true
[[prepare]]
step = "tokenize"
input = "text"
[[generate]]
step = "entities"
scores = "probabilities"
input = "text"
"""


def reading(folder: Path, *, aggregate: str = "first", labels: list[str] = LABELS) -> EntityReading:
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", "utf-8")
    tokenizer().save(str(folder / "tokenizer.json"))
    manifest = parse_manifest(MANIFEST + f'aggregate = "{aggregate}"\n')
    (step,) = manifest.generate
    return EntityReading(step, manifest, folder)  # type: ignore[arg-type]


def scores(*best: int, sure: float = 0.9, labels: int = 5) -> np.ndarray[Any, Any]:
    """One row a token, sure of the label given."""
    rows = np.full((len(best), labels), (1 - sure) / (labels - 1), np.float32)
    rows[np.arange(len(best)), best] = sure
    return rows


def test_words_of_one_entity_stand_together_with_their_place_in_the_text(tmp_path: Path) -> None:
    text = "Ann Smith of Oslo and  Paris."
    # <s> ann smith of oslo and paris . </s>
    found, own = reading(tmp_path)(scores(1, 1, 2, 0, 3, 0, 3, 0, 4), {"text": text})
    assert own.shape == (9, 5)
    assert found["entities"] == [
        {"label": "PER", "score": pytest.approx(0.9), "text": "Ann Smith", "start": 0, "end": 9},
        {"label": "LOC", "score": pytest.approx(0.9), "text": "Oslo", "start": 13, "end": 17},
        {"label": "LOC", "score": pytest.approx(0.9), "text": "Paris", "start": 23, "end": 28},
    ]


def test_places_are_of_characters_and_what_the_model_pads_is_cut(tmp_path: Path) -> None:
    text = "日本 😀 Oslo"
    rows = np.concatenate([scores(0, 0, 0, 3, 0), np.zeros((4, 5), np.float32)])  # <s> <unk> <unk> oslo </s>
    found, own = reading(tmp_path)(rows, {"text": text})
    (entity,) = found["entities"]
    assert text[entity["start"] : entity["end"]] == entity["text"] == "Oslo"
    assert len(own) == 5


@pytest.mark.parametrize(
    ("aggregate", "label", "score"), [("first", "PER", 0.6), ("mean", "LOC", 0.55), ("max", "LOC", 0.8)]
)
def test_a_word_of_several_tokens_has_the_label_that_the_aggregate_says(
    aggregate: str, label: str, score: float, tmp_path: Path
) -> None:
    rows = np.zeros((4, 5), np.float32)
    rows[:, 0] = 1
    rows[1] = [0.1, 0.6, 0, 0.3, 0]  # oslo
    rows[2] = [0.1, 0.1, 0, 0.8, 0]  # ##ville
    found, _ = reading(tmp_path, aggregate=aggregate)(rows, {"text": "Osloville"})
    assert found["entities"] == [
        {"label": label, "score": pytest.approx(score), "text": "Osloville", "start": 0, "end": 9}
    ]


def test_a_space_that_a_tokenizer_takes_for_a_part_of_the_word_is_none_of_the_entity(tmp_path: Path) -> None:
    pieces = ["<unk>", "\u2581Ann", "\u2581", "\u2581of", "\u2581Os", "lo", "."]
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    reading(tmp_path)
    made.save(str(tmp_path / "tokenizer.json"))
    manifest = parse_manifest(MANIFEST)
    found_by = EntityReading(manifest.generate[0], manifest, tmp_path)  # type: ignore[arg-type]
    text = "Ann  of Oslo."
    found, _ = found_by(scores(1, 0, 0, 3, 4, 4), {"text": text})  # Ann, a space, of, Os, lo, .
    assert [(each["text"], each["start"], each["end"]) for each in found["entities"]] == [
        ("Ann", 0, 3), ("Oslo.", 8, 13),
    ]  # fmt: skip


class Labelled:
    """A word by its label alone."""

    def __init__(self, label: str) -> None:
        self.label = label


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ("B-X I-X I-X", [3]),
        ("B-X B-X", [1, 1]),
        ("I-X I-X", [2]),
        ("B-X I-Y", [1, 1]),
        ("B-X O I-X", [1, 1]),
        ("O O", []),
        ("X X Y O X", [2, 1, 1]),
        ("S-X S-X B-Y E-Y", [1, 1, 2]),
        ("U-X B-Y I-Y L-Y", [1, 3]),
        ("B-X-1 I-X-1 I-X", [2, 1]),
    ],
)
def test_neighbours_are_one_entity_unless_the_tag_begins_another(labels: str, groups: list[int]) -> None:
    words: Any = [Labelled(label) for label in labels.split()]
    assert [len(group) for group in grouped(words)] == groups


def test_scores_of_another_text_are_an_error_and_no_wrong_places(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="other scores"):
        reading(tmp_path)(scores(0, 1), {"text": "Ann Smith of Oslo"})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            'scores = "probabilities"\ninput = "text"',
            'scores = "probabilities"\ninput = "words"',
            "not a text in tokens",
        ),
        ('step = "entities"', 'step = "entities"\naggregate = "median"', "aggregate"),
    ],
)
def test_the_step_is_checked_with_line_and_key(old: str, new: str, says: str) -> None:
    assert old in MANIFEST
    with pytest.raises(ManifestError, match=says):
        parse_manifest(MANIFEST.replace(old, new))
