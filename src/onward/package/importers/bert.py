"""Writes the ONNX graph of a BERT sentence encoder from its folder, without PyTorch.

Token ids and attention mask in, one embedding per sentence out: pooling and normalisation are part of the graph, so
Python, a browser and a phone run the very same operators. This module does not know tokenising.

Layout, chosen by measurement: padding is taken out before the first layer and comes back only within attention, so a
batch of sentences of mixed lengths costs what its tokens cost. Query, key and value are one matrix product, the
softmax scale sits in the query's weights, and token type 0 in the position table. The operators are plain ONNX.
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
#: Divides the sum over no token at all, as sentence-transformers does.
FEWEST_TOKENS = 1e-9


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
        epsilon=_epsilon(config),
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

    Inputs, INT64 [batch, sequence]: `input_ids`, `attention_mask` (0 for padding, wherever it stands), and
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
    """One pass over the architecture.

    Between the parts activations are [tokens, hidden]: only what the mask keeps, all sentences in one row after
    another. Attention spreads them out to [batch, sequence, ...], with any row in the places of padding, because the
    mask takes those out again.
    """

    def __init__(self, config: BertConfig, weights: Weights, *, opset: int) -> None:
        self.config = config
        self.weights = weights
        self.opset = opset
        self.graph = GraphWriter("bert_sentence_encoder", opset=opset)

    def write(self, *, pooling: Pooling, normalize: bool, token_types: bool) -> onnx.ModelProto:
        """The whole graph, from token ids to sentence vectors."""
        graph, config = self.graph, self.config
        names = ["input_ids", "attention_mask"] + (["token_type_ids"] if token_types else [])
        graph.reserve(*names)
        self.shapes()
        self.packing()
        hidden = self.embeddings(token_types=token_types)
        bias = self.mask_bias()
        for layer in range(config.layers):
            hidden = self.layer(hidden, bias, f"encoder.layer.{layer}.")
        pooled = self.pool(hidden, pooling)
        if normalize:
            smallest = graph.constant("norm.smallest", np.array(SMALLEST_NORM, np.float32))
            norm = graph.add("Max", [self.length(pooled), smallest], "norm.safe")
            graph.output("Div", [pooled, norm], "sentence_embedding")
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

    def shapes(self) -> None:
        """Shapes that depend on the input, computed once."""
        graph, config = self.graph, self.config
        self.flat = graph.ints("shape.flat", -1)
        self.rows = graph.ints("shape.rows", -1, config.hidden)
        grid = graph.add("Shape", ["input_ids"], "grid")  # batch, sequence
        self.sequence = graph.add("Shape", ["input_ids"], "sequence", start=1, end=2)
        heads = graph.ints("shape.heads", config.heads, config.head_width)
        self.by_head = graph.add("Concat", [grid, heads], "shape.by_head", axis=0)
        self.wide = graph.add("Concat", [grid, graph.ints("shape.hidden", config.hidden)], "shape.wide", axis=0)

    def packing(self) -> None:
        """Indices that pack the tokens that the mask keeps, and spread them out again.

        The very first place is packed whatever its mask says: a batch of nothing but padding must not leave a graph
        without a single row. Its mask still keeps it out of attention and pooling.
        """
        graph = self.graph
        graph_mask = graph.add("Cast", ["attention_mask"], "mask.bool", to=9)
        whole = graph.add("Cast", [graph_mask], "mask.whole", to=7)
        self.mask = graph.add("Cast", [graph_mask], "mask.float", to=1)
        places = graph.add("Reshape", [whole, self.flat], "mask.flat")
        one, most = graph.ints("pack.one", 1), graph.ints("pack.most", np.iinfo(np.int64).max)
        axis = graph.constant("pack.axis", np.array(0, np.int64))
        tail = graph.add("Slice", [places, one, most, graph.ints("pack.axes", 0)], "mask.tail")
        packed = graph.add("Concat", [one, tail], "mask.packed", axis=0)
        self.kept = graph.add("Reshape", [graph.add("NonZero", [packed], "pack.nonzero"), self.flat], "pack.kept")
        # the n-th kept token is row n - 1; a place of padding gets the row of the token before it
        count = graph.add("CumSum", [packed, axis], "pack.count")
        self.spread = graph.add("Sub", [count, one], "pack.spread")

    def embeddings(self, *, token_types: bool) -> str:
        """Token vectors [tokens, hidden]."""
        graph, config = self.graph, self.config
        words = self.weights.take("embeddings.word_embeddings.weight", config.vocabulary, config.hidden)
        positions = self.weights.take("embeddings.position_embeddings.weight", config.positions, config.hidden)
        types = self.weights.take("embeddings.token_type_embeddings.weight", config.token_types, config.hidden)
        if not token_types:
            positions = positions + types[0]
        summed = graph.add("Gather", [graph.constant("words", words), self.packed("input_ids")], "embeddings.words")
        if token_types:
            typed = graph.add(
                "Gather", [graph.constant("types", types), self.packed("token_type_ids")], "embeddings.types"
            )
            summed = graph.add("Add", [summed, typed], "embeddings.typed")
        column = graph.add("Mod", [self.kept, self.sequence], "columns")
        placed = graph.add("Gather", [graph.constant("positions", positions), column], "embeddings.positions")
        summed = graph.add("Add", [summed, placed], "embeddings.sum")
        return self.normalise(summed, "embeddings.LayerNorm")

    def packed(self, name: str) -> str:
        """The kept places of a graph input of shape [batch, sequence]."""
        flat = self.graph.add("Reshape", [name, self.flat], f"{name}.flat")
        return self.graph.add("Gather", [flat, self.kept], f"{name}.packed")

    def mask_bias(self) -> str:
        """0 for tokens and a large negative number for padding: [batch, 1, 1, sequence]."""
        graph = self.graph
        dropped = graph.add("Sub", [graph.constant("one", np.array(1, np.float32)), self.mask], "mask.dropped")
        bias = graph.add("Mul", [dropped, graph.constant("masked", np.array(MASKED_SCORE, np.float32))], "mask.bias")
        return graph.add("Unsqueeze", [bias, graph.ints("mask.axes", 1, 2)], "mask.wide")

    def layer(self, hidden: str, bias: str, prefix: str) -> str:
        """One encoder layer, [tokens, hidden] to the same."""
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
        """Self-attention before its output projection, [tokens, hidden] to the same."""
        graph, config = self.graph, self.config
        weight, offset = self.query_key_value(prefix)
        constants = [graph.constant(f"{prefix}qkv.weight", weight), graph.constant(f"{prefix}qkv.bias", offset)]
        joined = graph.add("Gemm", [hidden, *constants], f"{prefix}qkv")
        grid = graph.add("Gather", [joined, self.spread], f"{prefix}qkv.spread")  # (batch x sequence, 3 x hidden)
        sizes = graph.ints(f"{prefix}qkv.sizes", *[config.hidden] * 3)
        parts = graph.split("Split", [grid, sizes], [f"{prefix}{part}" for part in ("q", "k", "v")], axis=-1)
        by_head = [graph.add("Reshape", [part, self.by_head], f"{part}.heads") for part in parts]
        orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])  # keys already transposed for the product
        query, key, value = (
            graph.add("Transpose", [part], f"{part}.turned", perm=order)
            for part, order in zip(by_head, orders, strict=True)
        )
        scores = graph.add("Add", [graph.add("MatMul", [query, key], f"{prefix}scores"), bias], f"{prefix}masked")
        shares = graph.add("Softmax", [scores], f"{prefix}shares", axis=-1)  # (batch, heads, sequence, sequence)
        mixed = graph.add("MatMul", [shares, value], f"{prefix}mixed")  # (batch, heads, sequence, width)
        turned = graph.add("Transpose", [mixed], f"{prefix}mixed.turned", perm=[0, 2, 1, 3])
        rows = graph.add("Reshape", [turned, self.rows], f"{prefix}mixed.rows")
        return graph.add("Gather", [rows, self.kept], f"{prefix}mixed.packed")

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
        """A linear layer, [tokens, inner] to [tokens, outer]."""
        weight = self.graph.constant(f"{name}.weight", self.weights.take(f"{name}.weight", outer, inner).T)
        offset = self.graph.constant(f"{name}.bias", self.weights.take(f"{name}.bias", outer))
        return self.graph.add("Gemm", [values, weight, offset], name)

    def normalise(self, values: str, name: str) -> str:
        """Layer normalisation over the last axis."""
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

    def pool(self, hidden: str, pooling: Pooling) -> str:
        """Sentence vectors [batch, hidden] from token vectors [tokens, hidden]."""
        graph = self.graph
        rows = graph.add("Gather", [hidden, self.spread], "pool.rows")
        grid = graph.add("Reshape", [rows, self.wide], "pool.grid")  # (batch, sequence, hidden)
        if pooling == "cls":
            return graph.add("Gather", [grid, graph.constant("pool.first", np.array(0, np.int64))], "pool.cls", axis=1)
        # a product of [batch, 1, sequence] and [batch, sequence, hidden] sums the kept tokens without a masked copy
        row = graph.add("Unsqueeze", [self.mask, graph.ints("pool.row", 1)], "pool.mask")
        sums = graph.add("MatMul", [row, grid], "pool.sums")
        total = graph.add("Squeeze", [sums, graph.ints("pool.axis", 1)], "pool.total")
        count = graph.add("ReduceSum", [self.mask, graph.ints("pool.tokens", 1)], "pool.count", keepdims=1)
        smallest = graph.constant("pool.smallest", np.array(FEWEST_TOKENS, np.float32))
        return graph.add("Div", [total, graph.add("Max", [count, smallest], "pool.count.safe")], "pool.mean")

    def length(self, vectors: str) -> str:
        """Euclidean length of each vector, [batch, 1]; opset 18 moved the axes from an attribute to an input."""
        if self.opset >= 18:
            return self.graph.add("ReduceL2", [vectors, self.graph.ints("norm.axes", -1)], "norm", keepdims=1)
        return self.graph.add("ReduceL2", [vectors], "norm", axes=[-1], keepdims=1)


def _require(config: dict[str, Any], key: str, allowed: set[Any], *, default: Any) -> None:
    found = config.get(key, default)
    if not isinstance(found, (str, bool)) or found not in allowed:
        words = " or ".join(json.dumps(value) for value in sorted(allowed, key=str))
        raise UnsupportedModel(
            "config.json asks for something else", where=key, expected=words, found=json.dumps(found)
        )


def _positive(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedModel("config.json lacks a whole number above 0", where=key, found=json.dumps(value))
    return value


def _epsilon(config: dict[str, Any]) -> float:
    value = config.get("layer_norm_eps", 1e-12)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise UnsupportedModel("config.json lacks a small number", where="layer_norm_eps", found=json.dumps(value))
    return float(value)
