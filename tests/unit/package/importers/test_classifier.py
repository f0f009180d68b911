"""Classifiers of sequences from Hugging Face folders, against the architecture in NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onward.errors import ParityError, UsageError
from onward.package.digest import read_lock
from onward.package.importers.bert import write_bert_encoder, write_classifier
from onward.package.importers.encoderconfig import read_config, read_head
from onward.package.importers.graph import UnsupportedModel
from onward.package.pack import pack
from onward.pipeline import Pipeline
from onward.runners.local import run_package
from tests.unit.package.importers.families import FAMILIES, PADDING, POSITIONS, WORDS, Family, tokenizer

SENTENCES = [[0, 4, 5, 2], [0], [0, *range(3, 17), 2, 4, 5], [0, 9, 1, 8, 2]]  # the last one holds a <pad> within
NAMES = ["bad", "so-so", "good"]


def run(folder: Path, rows: list[list[int]], output: str, padding: int) -> np.ndarray[Any, Any]:
    """What the graph gives for a padded batch."""
    ids = np.full((len(rows), max(map(len, rows))), padding, np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    model = write_classifier(folder, read_head(folder / "config.json"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run([output], {"input_ids": ids, "attention_mask": mask})[0]
    return found


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    made: np.ndarray[Any, Any] = shares / shares.sum(axis=-1, keepdims=True)
    return made


@pytest.mark.parametrize("padding", [0, PADDING, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_padded_batch_gives_what_numpy_computes_alone(family: str, padding: int, tmp_path: Path) -> None:
    model = Family(family)
    folder = model.write(tmp_path / "model")
    expected = np.stack([model.logits(row) for row in SENTENCES])
    np.testing.assert_allclose(run(folder, SENTENCES, "logits", padding), expected, rtol=0, atol=3e-5)
    np.testing.assert_allclose(run(folder, SENTENCES, "probabilities", padding), softmax(expected), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_encoder_is_found_beneath_its_head(family: str, tmp_path: Path) -> None:
    model = Family(family)
    made = write_bert_encoder(model.write(tmp_path / "model"), pooling="cls", normalize=False)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([SENTENCES[0]]), "attention_mask": np.ones((1, 4), np.int64)}
    np.testing.assert_allclose(session.run(None, feeds)[0][0], model.hidden(SENTENCES[0])[0], atol=2e-5)


def texts(count: int = 64) -> list[str]:
    """Texts of 1 to 30 words: some longer than there are positions."""
    random = np.random.default_rng(2)
    return [" ".join(random.choice(WORDS[4:14], size=1 + row % 30)) for row in range(count)]


def reference(model: Family, folder: Path) -> Path:
    """The original's logits, text by text, as NumPy computes them."""
    cut = tokenizer()
    cut.enable_truncation(read_config(folder / "config.json").longest)
    ids = [cut.encode(text).ids for text in texts()]
    logits = np.stack([model.logits(row) for row in ids]).astype(np.float32)
    np.savez(folder.parent / "reference.npz", texts=np.array(texts()), logits=logits, provenance=np.array("NumPy"))
    return folder.parent / "reference.npz"


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_a_sequence_classifier_answers_with_its_label_and_was_compared(family: str, tmp_path: Path) -> None:
    model = Family(family, id2label=dict(enumerate(NAMES)))
    folder = model.write(tmp_path / "model")
    package = pack(folder, tmp_path / "out", reference=reference(model, folder), run_package=run_package)
    parity = read_lock(package.folder).parity
    assert (parity["compared"], parity["rows"], parity["reference"]) == (True, 64, "NumPy")
    assert package.manifest.package.task == "text-classification"
    with Pipeline.open(package.folder) as pipeline:
        answer = pipeline({"text": "The cat sat."}).answer
        assert pipeline.check_examples() == 5
    expected = softmax(model.logits(tokenizer().encode("The cat sat.").ids))
    assert answer["label"] == NAMES[int(expected.argmax())]
    assert answer["score"] == pytest.approx(float(expected.max()), abs=1e-5)
    assert {each["label"] for each in answer["labels"]} == set(NAMES)


def test_several_labels_may_be_true_where_the_problem_type_says_so(tmp_path: Path) -> None:
    model = Family("bert", id2label=dict(enumerate(NAMES)), problem_type="multi_label_classification")
    folder = model.write(tmp_path / "model")
    package = pack(folder, tmp_path / "out", reference=reference(model, folder), run_package=run_package)
    with Pipeline.open(package.folder) as pipeline:
        answer = pipeline("The cat sat.").answer["probabilities"]
    expected = 1 / (1 + np.exp(-model.logits(tokenizer().encode("The cat sat.").ids)))
    assert answer == pytest.approx(dict(zip(NAMES, expected.tolist(), strict=True)), abs=1e-5)


@pytest.mark.parametrize("changed", [{}, {"problem_type": "regression"}])
def test_one_label_is_a_regression(changed: dict[str, Any], tmp_path: Path) -> None:
    model = Family("distilbert", labels=1, **changed)
    folder = model.write(tmp_path / "model")
    package = pack(folder, tmp_path / "out", reference=reference(model, folder), run_package=run_package)
    assert package.manifest.package.task == "text-regression"
    with Pipeline.open(package.folder) as pipeline:
        found = pipeline("The cat sat.").answer["prediction"]
    assert found == pytest.approx(model.logits(tokenizer().encode("The cat sat.").ids).tolist(), abs=1e-4)


def test_without_a_reference_a_classifier_is_packed_and_the_lock_says_so(tmp_path: Path) -> None:
    package = pack(Family("roberta").write(tmp_path / "model"), tmp_path / "out", run_package=run_package)
    assert read_lock(package.folder).parity == {"compared": False}
    assert package.manifest.batching.pad["input_ids"] == PADDING


def test_logits_that_differ_are_refused_though_probabilities_do_not(tmp_path: Path) -> None:
    model = Family("bert")
    folder = model.write(tmp_path / "model")
    arrays = dict(np.load(reference(model, folder)))
    arrays["logits"] = arrays["logits"] + 1.0  # softmax does not see it
    with pytest.raises(ParityError):
        pack(folder, tmp_path / "out", reference=arrays)
    with pytest.raises(UsageError, match="not of this classifier"):
        pack(folder, tmp_path / "out", reference=arrays | {"logits": arrays["logits"][:, :2]})


@pytest.mark.parametrize(("stated", "expected"), [(8, 8), (10**30, POSITIONS), ("long", POSITIONS), (None, POSITIONS)])
def test_texts_are_cut_off_where_the_tokenizers_settings_say(stated: Any, expected: int, tmp_path: Path) -> None:
    folder = Family("bert").write(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": stated}), "utf-8")
    (step,) = pack(folder, tmp_path / "out").manifest.prepare
    assert getattr(step, "max_tokens", 0) == expected


def test_roberta_has_two_positions_less_than_its_table(tmp_path: Path) -> None:
    assert read_config(Family("roberta").write(tmp_path / "model") / "config.json").longest == POSITIONS - 2


def test_norms_by_the_names_of_tensorflow_are_found(tmp_path: Path) -> None:
    model = Family("bert")
    plain = model.write(tmp_path / "a")
    model.weights = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in model.weights.items()
    }
    renamed = model.write(tmp_path / "b")
    head = read_head(plain / "config.json")
    assert write_classifier(plain, head).SerializeToString() == write_classifier(renamed, head).SerializeToString()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, "architectures"),
        ({"architectures": [3]}, "architectures"),
        ({"problem_type": "ranking"}, "problem_type"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label"),
        ({"id2label": {"0": "a", "1": "b\nc"}}, "id2label"),
        ({"id2label": {"zero": "a"}}, "id2label"),
        ({"id2label": dict(enumerate("abcd"))}, "classifier.weight"),
        ({"model_type": "electra"}, "model_type"),
        ({"model_type": "roberta", "pad_token_id": "x"}, "pad_token_id"),
        ({"model_type": "roberta", "pad_token_id": 40}, "max_position_embeddings"),
    ],
)
def test_what_the_graph_would_get_wrong_is_refused_by_its_key(
    changed: dict[str, Any], word: str, tmp_path: Path
) -> None:
    folder = Family("bert", **changed).write(tmp_path / "model")
    with pytest.raises(UnsupportedModel) as raised:
        pack(folder, tmp_path / "out")
    assert word in str(raised.value)
    assert not (tmp_path / "out").exists()


BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def token_reference(model: Family, folder: Path) -> dict[str, Any]:
    """The original's logits of every token, text by text."""
    cut = tokenizer()
    cut.enable_truncation(read_config(folder / "config.json").longest)
    ids = [cut.encode(text).ids for text in texts()]
    logits = np.concatenate([model.logits(row) for row in ids]).astype(np.float32)
    return {"texts": np.array(texts()), "logits": logits}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_token_classifier_gives_what_numpy_computes_alone_and_nothing_for_padding(
    family: str, tmp_path: Path
) -> None:
    model = Family(family, task="Token", labels=5)
    folder = model.write(tmp_path / "model")
    found = run(folder, SENTENCES, "logits", PADDING)
    shares = run(folder, SENTENCES, "probabilities", PADDING)
    for row, ids in enumerate(SENTENCES):
        np.testing.assert_allclose(found[row, : len(ids)], model.logits(ids), rtol=0, atol=3e-5)
        np.testing.assert_allclose(shares[row, : len(ids)], softmax(model.logits(ids)), atol=1e-5)
        assert not found[row, len(ids) :].any() and not shares[row, len(ids) :].any()


def test_a_token_classifier_answers_with_entities_whoever_shares_its_batch(tmp_path: Path) -> None:
    model = Family("bert", task="Token", labels=5, id2label=dict(enumerate(BIO)))
    model.weights["classifier.bias"][0] -= 20  # else this random model finds nothing
    folder = model.write(tmp_path / "model")
    package = pack(folder, tmp_path / "out", reference=token_reference(model, folder), run_package=run_package)
    assert read_lock(package.folder).parity["compared"] is True
    with Pipeline.open(package.folder) as pipeline:
        assert pipeline.check_examples() == 5
        alone = [pipeline(text, outputs=["probabilities"]).answer for text in texts()]
        results = pipeline.batch(texts(), outputs=["probabilities"])
    together = [result.answer for result in results]
    assert any(answer["entities"] for answer in alone)
    for text, one, other in zip(texts(), alone, together, strict=True):
        assert len(one["probabilities"]) == len(other["probabilities"]) == min(len(tokenizer().encode(text)), POSITIONS)
        assert results[texts().index(text)].tensors["probabilities"].shape == (1, len(one["probabilities"]), 5)
        assert [each["text"] for each in one["entities"]] == [each["text"] for each in other["entities"]]
        for entity in one["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["text"]


def test_a_reference_of_tokens_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = Family("roberta", task="Token", labels=5, id2label=dict(enumerate(BIO)))
    folder = model.write(tmp_path / "model")
    arrays = token_reference(model, folder)
    with pytest.raises(UsageError, match="one row a token"):
        pack(folder, tmp_path / "out", reference=arrays | {"logits": arrays["logits"][:-1]})
    with pytest.raises(ParityError):
        pack(folder, tmp_path / "out", reference=arrays | {"logits": arrays["logits"] + 1})
    with pytest.raises(UsageError, match="whose tokens"):
        pack(folder, tmp_path / "out", reference={"logits": arrays["logits"]})
