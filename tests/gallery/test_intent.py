"""Properties of the gallery package `intent`. The held-out test set is no part of them: it is used once, elsewhere."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the gallery builds need the extra `pack`")

from gallery.builds import is_built
from gallery.intent import evaluate
from gallery.intent.misspellings import variants
from gallery.intent.typos import spoil
from gallery.intent.utterances import OUT_OF_SCOPE, intents, read_utterances
from onward.errors import PackageError
from onward.package.assembly import assemble
from onward.package.examples import read_examples
from onward.pipeline import Pipeline

REPOSITORY = Path(__file__).parents[2] / "var" / "repository"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    if is_built("intent", REPOSITORY):
        return Pipeline.open(REPOSITORY / "intent" / "1.0.0", check=False)
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("intent is not built, and building it needs the extra `pack`")
    from gallery.intent.build import build

    out = tmp_path_factory.mktemp("intent")
    build(out, progress=lambda step, share: None)
    assemble(out)
    return Pipeline.open(out, check=False)


def test_every_intent_has_at_least_70_utterances_and_none_serves_two_intents() -> None:
    utterances = read_utterances()
    counts = Counter(each.intent for each in utterances)
    assert len(counts) == 35
    assert min(counts.values()) >= 70 and counts[OUT_OF_SCOPE] >= 350
    assert max(Counter(each.text.lower() for each in utterances).values()) == 1


def test_spoiling_is_the_same_every_time_and_differs_between_copies() -> None:
    text = "Please change the delivery address of my subscription"
    assert spoil(text, copy=1) == spoil(text, copy=1)
    assert len({spoil(text, copy=copy) for copy in range(8)}) > 4


def test_a_word_is_one_slip_away_from_its_variants() -> None:
    found = set(variants("cancel"))
    assert {"cancl", "cacnel", "cancell", "cancwl"} <= found
    assert "cancel" not in found


@pytest.mark.weights
def test_the_golden_examples_hold_and_cover_every_intent(pipeline: Pipeline) -> None:
    pipeline.check_examples()
    examples = read_examples(pipeline.package.folder)
    names = {example.name.rsplit("-", 1)[0] for example in examples}
    assert len(examples) >= 70
    assert names == set(intents(read_utterances()))


@pytest.mark.weights
def test_probabilities_sum_to_one_and_the_label_is_the_likeliest(pipeline: Pipeline) -> None:
    texts = ["where is my parcel", "asdf qwer zxcv", "", "a" * 5000, "🙂", "cancel it " * 400]
    names = (pipeline.package.folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    for result in pipeline.batch(texts):
        row = result.tensors["probabilities"][0]
        assert row.shape == (35,) and abs(float(row.sum()) - 1) < 1e-5
        assert result.answer["label"] == names[int(row.argmax())]


@pytest.mark.weights
def test_most_utterances_unlike_the_training_ones_are_understood(pipeline: Pipeline) -> None:
    wanted = {
        "would you mind telling me how far along my parcel has got by now?": "track_order",
        "two quid a month is what the wee box costs, or have I got that wrong?": "ask_plan_price",
        "nobody told me my card would be debited a second time for June": "dispute_charge",
        "could a colleague of flesh and blood take over this conversation": "talk_to_human",
        "which mountain pass leads from Innsbruck to Italy?": OUT_OF_SCOPE,
    }
    assert not wanted.keys() & {each.text for each in read_utterances()}
    found = [result.answer["label"] for result in pipeline.batch(list(wanted))]
    # the second is mean on purpose ("got that wrong" sounds like a dispute): four of five is what is promised
    assert sum(got == want for got, want in zip(found, wanted.values(), strict=True)) >= 4


@pytest.mark.weights
@pytest.mark.parametrize("clean", ["cancel my subscription please", "where is my delivery", "I want a refund"])
def test_misspellings_of_common_words_reach_the_model_as_the_words(pipeline: Pipeline, clean: str) -> None:
    slips = {"cancel": "cancle", "subscription": "subscripton", "please": "plz", "delivery": "delivrey"}
    slips["refund"] = "refnud"
    spoilt = " ".join(slips.get(word, word) for word in clean.split())
    assert spoilt != clean
    wanted, found = (result.tensors["probabilities"] for result in pipeline.batch([clean, spoilt]))
    assert np.abs(wanted - found).max() < 1e-5


@pytest.mark.weights
def test_the_sentence_embedding_comes_only_on_request(pipeline: Pipeline) -> None:
    assert "sentence_embedding" not in pipeline("hello").tensors
    embedding = pipeline("hello", outputs=["sentence_embedding"]).tensors["sentence_embedding"]
    assert embedding.shape == (1, 384) and abs(float(np.linalg.norm(embedding)) - 1) < 1e-5


def test_another_test_file_than_the_committed_one_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "hi", "intent": "greet"}\n', encoding="utf-8")
    with pytest.raises(PackageError):
        evaluate.held_out(other)
    digest = tmp_path / "test.sha256"
    digest.write_text(f"{hashlib.sha256(other.read_bytes()).hexdigest()}  other.jsonl\n", encoding="utf-8")
    assert [each.intent for each in evaluate.held_out(other, digest)] == ["greet"]


def test_quality_counts_a_rejected_utterance_in_scope_as_wrong() -> None:
    wanted = ["greet", "greet", "track_order", OUT_OF_SCOPE, OUT_OF_SCOPE]
    found = ["greet", OUT_OF_SCOPE, "track_order", OUT_OF_SCOPE, "greet"]
    measured = evaluate.quality(wanted, found)
    assert (measured.in_scope_accuracy.hits, measured.in_scope_accuracy.of) == (2, 3)
    assert measured.accuracy.share == 3 / 5
    assert measured.out_of_scope_recall.share == 1 / 2
    assert measured.out_of_scope_precision.share == 1 / 2
    assert json.dumps(measured.confusions) == json.dumps([["greet", OUT_OF_SCOPE, 1], [OUT_OF_SCOPE, "greet", 1]])


def test_the_interval_holds_the_share_and_narrows_with_more_utterances() -> None:
    few, many = evaluate.share(9, 10), evaluate.share(900, 1000)
    assert few.low < 0.9 < few.high <= 1.0
    assert many.high - many.low < few.high - few.low
    assert abs(many.low - 0.8834) < 5e-4 and abs(many.high - 0.9145) < 5e-4
