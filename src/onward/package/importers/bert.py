"""Writes the ONNX graph of a BERT sentence encoder from its folder, without PyTorch.

Token ids and attention mask in, one embedding per sentence out: pooling and normalisation are part of the graph, so
Python, a browser and a phone run the very same operators. This module does not know tokenising.

Layout, chosen by measurement (docs/why): query, key and value are one matrix product, the softmax scale sits in the
query's weights, and token type 0 sits in the position table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onward.package.importers.graph import Array, GraphWriter, UnsupportedModel, Weights, tensor
from onward.package.importers.safetensors import read_safetensors

if TYPE_CHECKING:
    import onnx

Pooling = Literal["mean", "cls"]

#: Added to the scores of padding. Large enough that softmax gives exactly 0, small enough that nothing overflows.
MASKED_SCORE = -1e9
#: Norms below this are divided by it instead, as sentence-transformers does.
SMALLEST_NORM = 1e-12


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """What the graph needs of a BERT folder's config.json."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    token_types: int
    epsilon: float

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


def read_config(file: Path) -> BertConfig:
    """Read config.json. Raises UnsupportedModel, naming the key, for what the graph would get wrong."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"config.json cannot be read: {error}", where=str(file)) from error
    if not isinstance(config, dict):
        raise UnsupportedModel("config.json is not an object", where=str(file))
    _require(config, "model_type", {"bert"}, default=None)
    _require(config, "hidden_act", {"gelu"}, default="gelu")
    _require(config, "position_embedding_type", {"absolute"}, default="absolute")
    _require(config, "is_decoder", {False}, default=False)
    _require(config, "add_cross_attention", {False}, default=False)
    read = BertConfig(
        vocabulary=_positive(config, "vocab_size"),
        hidden=_positive(config, "hidden_size"),
        layers=_positive(config, "num_hidden_layers"),
        heads=_positive(config, "num_attention_heads"),
        intermediate=_positive(config, "intermediate_size"),
        positions=_positive(config, "max_position_embeddings"),
        token_types=_positive(config, "type_vocab_size"),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
    )
    if read.hidden % read.heads:
        raise UnsupportedModel(
            "hidden_size is not a multiple of num_attention_heads",
            where="hidden_size", expected=f"a multiple of {read.heads}", found=str(read.hidden),
        )  # fmt: skip
    return read


def write_bert_encoder(
    folder: Path,
    *,
    pooling: Pooling,
    normalize: bool,
    token_types: bool = False,
    opset: int = 17,
) -> onnx.ModelProto:
    """Write the encoder in `folder` (config.json, model.safetensors) as an ONNX model.

    Inputs, INT64 [batch, sequence]: `input_ids`, `attention_mask` (1 for tokens, 0 for padding on the right), and
    `token_type_ids` where `token_types` is set; without it every token is of type 0.
    Output, FP32 [batch, hidden]: `sentence_embedding`, of length 1 where `normalize` is set.

    pooling: `mean` over the tokens that the mask keeps, or `cls`, the first token. A sentence with no token kept
    gives zeros under `mean`. Raises UnsupportedModel for a folder the graph would not reproduce.
    """
    if pooling not in ("mean", "cls"):
        raise UnsupportedModel("unknown pooling", where="pooling", expected="mean or cls", found=repr(pooling))
    config = read_config(folder / "config.json")
    try:
        tensors = read_safetensors(folder / "model.safetensors")
    except OSError as error:
        raise UnsupportedModel(f"model.safetensors cannot be read: {error}", where=str(folder)) from error
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    encoder = _Encoder(config, Weights(tensors, prefix=prefix), opset=opset)
    return encoder.write(pooling=pooling, normalize=normalize, token_types=token_types)


class _Encoder:
    """One pass over the architecture. Activations are [batch, sequence, hidden] between the parts."""

    def __init__(self, config: BertConfig, weights: Weights, *, opset: int) -> None:
        self.config = config
        self.weights = weights
        self.opset = opset
        self.graph = GraphWriter("bert_sentence_encoder", opset=opset)

    def write(self, *, pooling: Pooling, normalize: bool, token_types: bool) -> onnx.ModelProto:
        graph, config = self.graph, self.config
        names = ["input_ids", "attention_mask"] + (["token_type_ids"] if token_types else [])
        graph.reserve(*names)
        hidden = self.embeddings(token_types=token_types)
        kept = graph.add("Cast", ["attention_mask"], "mask.float", to=1)
        bias = self.mask_bias(kept)
        for layer in range(config.layers):
            hidden = self.layer(hidden, bias, f"encoder.layer.{layer}.")
        pooled = self.pool(hidden, kept, pooling)
        if normalize:
            norm = self.length(pooled)
            smallest = graph.constant("norm.smallest", np.array(SMALLEST_NORM, np.float32))
            graph.output("Div", [pooled, graph.add("Max", [norm, smallest], "norm.safe")], "sentence_embedding")
        else:
            graph.output("Identity", [pooled], "sentence_embedding")
        inputs = [tensor(name, np.int64, ["batch", "sequence"]) for name in names]
        outputs = [tensor("sentence_embedding", np.float32, ["batch", config.hidden])]
        metadata = {
            "architecture": "bert",
            "pooling": pooling,
            "normalize": str(normalize).lower(),
            "max_sequence": str(config.positions),
        }
        return graph.model(inputs, outputs, metadata=metadata)

    def length(self, vectors: str) -> str:
        """Euclidean length of each vector, [batch, 1]; opset 18 moved the axes from an attribute to an input."""
        if self.opset >= 18:
            return self.graph.add("ReduceL2", [vectors, self.graph.ints("norm.axes", -1)], "norm", keepdims=1)
        return self.graph.add("ReduceL2", [vectors], "norm", axes=[-1], keepdims=1)

    def embeddings(self, *, token_types: bool) -> str:
        graph, config = self.graph, self.config
        words = self.weights.take("embeddings.word_embeddings.weight", config.vocabulary, config.hidden)
        positions = self.weights.take("embeddings.position_embeddings.weight", config.positions, config.hidden)
        types = self.weights.take("embeddings.token_type_embeddings.weight", config.token_types, config.hidden)
        if not token_types:
            positions = positions + types[0]
        # [batch, sequence, hidden]
        summed = graph.add("Gather", [graph.constant("words", words), "input_ids"], "embeddings.words")
        if token_types:
            typed = graph.add("Gather", [graph.constant("types", types), "token_type_ids"], "embeddings.types")
            summed = graph.add("Add", [summed, typed], "embeddings.typed")
        length = graph.add("Shape", ["input_ids"], "length", start=1, end=2)
        slices = [graph.constant("positions", positions), graph.ints("zero", 0), length, graph.ints("rows", 0)]
        placed = graph.add("Slice", slices, "embeddings.positions")  # [sequence, hidden]
        summed = graph.add("Add", [summed, placed], "embeddings.sum")
        return self.normalise(summed, "embeddings.LayerNorm")

    def mask_bias(self, kept: str) -> str:
        """0 for tokens and a large negative number for padding: [batch, 1, 1, sequence]."""
        graph = self.graph
        dropped = graph.add("Sub", [graph.constant("one", np.array(1, np.float32)), kept], "mask.dropped")
        bias = graph.add("Mul", [dropped, graph.constant("masked", np.array(MASKED_SCORE, np.float32))], "mask.bias")
        return graph.add("Unsqueeze", [bias, graph.ints("mask.axes", 1, 2)], "mask.wide")

    def layer(self, hidden: str, bias: str, prefix: str) -> str:
        config, graph = self.config, self.graph
        mixed = self.attention(hidden, bias, f"{prefix}attention.")
        dense = self.dense(mixed, f"{prefix}attention.output.dense", config.hidden, config.hidden)
        attended = self.normalise(
            graph.add("Add", [dense, hidden], f"{prefix}attention.sum"), f"{prefix}attention.output.LayerNorm"
        )
        wide = self.dense(attended, f"{prefix}intermediate.dense", config.hidden, config.intermediate)
        narrow = self.dense(self.gelu(wide, prefix), f"{prefix}output.dense", config.intermediate, config.hidden)
        return self.normalise(graph.add("Add", [narrow, attended], f"{prefix}sum"), f"{prefix}output.LayerNorm")

    def attention(self, hidden: str, bias: str, prefix: str) -> str:
        graph, config = self.graph, self.config
        heads, width = config.heads, config.head_width
        weight, offset = self.query_key_value(prefix)
        product = graph.add("MatMul", [hidden, graph.constant(f"{prefix}qkv.weight", weight)], f"{prefix}qkv.product")
        joined = graph.add("Add", [product, graph.constant(f"{prefix}qkv.bias", offset)], f"{prefix}qkv")
        parts = graph.split(
            "Split",
            [joined, graph.ints(f"{prefix}qkv.sizes", *[config.hidden] * 3)],
            [f"{prefix}{part}" for part in ("q", "k", "v")],
            axis=-1,
        )
        shape = graph.ints(f"{prefix}heads", 0, 0, heads, width)
        split = [graph.add("Reshape", [part, shape], f"{part}.heads") for part in parts]
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])  # keys already transposed for the product
        query, key, value = (
            graph.add("Transpose", [part], f"{part}.turned", perm=order)
            for part, order in zip(split, orders, strict=True)
        )
        scores = graph.add("Add", [graph.add("MatMul", [query, key], f"{prefix}scores"), bias], f"{prefix}masked")
        shares = graph.add("Softmax", [scores], f"{prefix}shares", axis=-1)  # (batch, heads, sequence, sequence)
        mixed = graph.add("MatMul", [shares, value], f"{prefix}mixed")  # (batch, heads, sequence, width)
        mixed = graph.add("Transpose", [mixed], f"{prefix}mixed.turned", perm=[0, 2, 1, 3])
        return graph.add(
            "Reshape", [mixed, graph.ints(f"{prefix}joined", 0, 0, config.hidden)], f"{prefix}mixed.joined"
        )

    def query_key_value(self, prefix: str) -> tuple[Array, Array]:
        """The three projections as one matrix [hidden, 3 x hidden] and bias, the softmax scale within the query's."""
        hidden = self.config.hidden
        scale = 1.0 / np.sqrt(self.config.head_width)
        weights, offsets = [], []
        for part, factor in (("query", scale), ("key", 1.0), ("value", 1.0)):
            weight = self.weights.take(f"{prefix}self.{part}.weight", hidden, hidden)
            offset = self.weights.take(f"{prefix}self.{part}.bias", hidden)
            weights.append((weight.T.astype(np.float64) * factor).astype(np.float32))
            offsets.append((offset.astype(np.float64) * factor).astype(np.float32))
        return np.concatenate(weights, axis=1), np.concatenate(offsets)

    def dense(self, values: str, name: str, inner: int, outer: int) -> str:
        weight = self.graph.constant(f"{name}.weight", self.weights.take(f"{name}.weight", outer, inner).T)
        offset = self.graph.constant(f"{name}.bias", self.weights.take(f"{name}.bias", outer))
        product = self.graph.add("MatMul", [values, weight], f"{name}.product")
        return self.graph.add("Add", [product, offset], name)

    def normalise(self, values: str, name: str) -> str:
        scale = self.graph.constant(f"{name}.weight", self.weights.take(f"{name}.weight", self.config.hidden))
        offset = self.graph.constant(f"{name}.bias", self.weights.take(f"{name}.bias", self.config.hidden))
        epsilon = self.config.epsilon
        return self.graph.add("LayerNormalization", [values, scale, offset], name, axis=-1, epsilon=epsilon)

    def gelu(self, values: str, prefix: str) -> str:
        """x/2 (1 + erf(x/sqrt 2)): as one operator from opset 20, else in the shape that onnxruntime fuses."""
        graph = self.graph
        if self.opset >= 20:
            return graph.add("Gelu", [values], f"{prefix}gelu")
        root = graph.constant(f"{prefix}gelu.root", np.array(np.sqrt(2.0), np.float32))
        one = graph.constant(f"{prefix}gelu.one", np.array(1, np.float32))
        half = graph.constant(f"{prefix}gelu.half", np.array(0.5, np.float32))
        erf = graph.add("Erf", [graph.add("Div", [values, root], f"{prefix}gelu.scaled")], f"{prefix}gelu.erf")
        product = graph.add("Mul", [values, graph.add("Add", [erf, one], f"{prefix}gelu.sum")], f"{prefix}gelu.product")
        return graph.add("Mul", [product, half], f"{prefix}gelu")

    def pool(self, hidden: str, kept: str, pooling: Pooling) -> str:
        """Sentence vectors [batch, hidden] from token vectors [batch, sequence, hidden]."""
        graph = self.graph
        if pooling == "cls":
            first = graph.constant("pool.first", np.array(0, np.int64))
            return graph.add("Gather", [hidden, first], "pool.cls", axis=1)
        # a product of [batch, 1, sequence] and [batch, sequence, hidden] sums the kept tokens without a masked copy
        row = graph.add("Unsqueeze", [kept, graph.ints("pool.row", 1)], "pool.kept")
        total = graph.add(
            "Squeeze", [graph.add("MatMul", [row, hidden], "pool.sums"), graph.ints("pool.axis", 1)], "pool.sum"
        )
        count = graph.add("ReduceSum", [kept, graph.ints("pool.tokens", 1)], "pool.count", keepdims=1)
        smallest = graph.constant("pool.smallest", np.array(1e-9, np.float32))
        return graph.add("Div", [total, graph.add("Max", [count, smallest], "pool.count.safe")], "pool.mean")


def _require(config: dict[str, Any], key: str, allowed: set[Any], *, default: Any) -> None:
    found = config.get(key, default)
    if found not in allowed:
        words = " or ".join(json.dumps(value) for value in sorted(allowed, key=str))
        raise UnsupportedModel(
            "config.json asks for something else", where=key, expected=words, found=json.dumps(found)
        )


def _positive(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedModel("config.json lacks a whole number above 0", where=key, found=json.dumps(value))
    return value
