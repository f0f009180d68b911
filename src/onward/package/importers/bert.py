"""Writes the ONNX graph of a BERT, RoBERTa or DistilBERT model from its folder, without PyTorch.

Token ids and attention mask in; out comes one embedding per sentence, or what a classifier says of the sentence or of
each token. Pooling, heads and probabilities are part of the graph, so Python, a browser and a phone run the very same
operators. This module does not know tokenising.

Layout, chosen by measurement: padding is taken out before the first layer and comes back only within attention, so a
batch of sentences of mixed lengths costs what its tokens cost. Query, key and value are one matrix product, the
softmax scale sits in the query's weights, and token type 0 in the position table. The operators are plain ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from onward.package.importers.encoderconfig import EncoderConfig, HeadConfig, read_config
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
    encoder = _Encoder(folder, opset=opset)
    return encoder.write(pooling=pooling, normalize=normalize, token_types=token_types)


def write_classifier(folder: Path, head: HeadConfig, *, opset: int = 17) -> onnx.ModelProto:
    """Write the classifier in `folder` as an ONNX model.

    Inputs as of `write_bert_encoder`, without token types. Outputs: `probabilities` FP32 [batch, labels], and `logits`
    of the same shape; for tokens both are [batch, sequence, labels], 0 in the places of padding. A regression has
    `prediction` for its probabilities, which is its logits.
    Raises UnsupportedModel for a folder the graph would not reproduce.
    """
    return _Encoder(folder, opset=opset).write_classifier(head)


class _Encoder:
    """One pass over the architecture.

    Between the parts activations are [tokens, hidden]: only what the mask keeps, all sentences in one row after
    another. Attention spreads them out to [batch, sequence, ...], with any row in the places of padding, because the
    mask takes those out again.
    """

    def __init__(self, folder: Path, *, opset: int) -> None:
        self.config: EncoderConfig = read_config(folder / "config.json")
        try:
            tensors = read_safetensors(folder / "model.safetensors")
        except OSError as error:
            raise UnsupportedModel(f"model.safetensors cannot be read: {error}", where=str(folder)) from error
        prefix = self.config.prefix if any(name.startswith(self.config.prefix) for name in tensors) else ""
        self.weights = Weights(_renamed(tensors), prefix=prefix)
        self.head_weights = Weights(_renamed(tensors))
        self.opset = opset
        self.graph = GraphWriter("bert_sentence_encoder", opset=opset)

    def write(self, *, pooling: Pooling, normalize: bool, token_types: bool) -> onnx.ModelProto:
        """The whole graph, from token ids to sentence vectors."""
        graph, config = self.graph, self.config
        if token_types and not config.token_types:
            raise UnsupportedModel("the model knows no types of tokens", where="token_types", found=config.family)
        names = ["input_ids", "attention_mask"] + (["token_type_ids"] if token_types else [])
        pooled = self.pool(self.encoded(names), pooling)
        if normalize:
            smallest = graph.constant("norm.smallest", np.array(SMALLEST_NORM, np.float32))
            norm = graph.add("Max", [self.length(pooled), smallest], "norm.safe")
            graph.output("Div", [pooled, norm], "sentence_embedding")
        else:
            graph.output("Identity", [pooled], "sentence_embedding")
        inputs = [tensor(name, np.int64, ["batch", "sequence"]) for name in names]
        outputs = [tensor("sentence_embedding", np.float32, ["batch", config.hidden])]
        metadata = {
            "architecture": config.family,
            "pooling": pooling,
            "normalize": str(normalize).lower(),
            "max_sequence": str(config.longest),
        }
        return graph.model(inputs, outputs, metadata=metadata)

    def encoded(self, names: Sequence[str]) -> str:
        """Token vectors [tokens, hidden] after the last layer; `names` are the graph's inputs."""
        self.graph.reserve(*names)
        self.shapes()
        self.packing()
        hidden = self.embeddings(token_types="token_type_ids" in names)
        bias = self.mask_bias()
        for layer in range(self.config.layers):
            hidden = self.layer(hidden, bias, f"encoder.layer.{layer}.")
        return hidden

    def write_classifier(self, head: HeadConfig) -> onnx.ModelProto:
        """The whole graph, from token ids to probabilities."""
        graph, count = self.graph, len(head.labels)
        names = ["input_ids", "attention_mask"]
        inputs = [tensor(name, np.int64, ["batch", "sequence"]) for name in names]
        shape: list[str | int] = ["batch", count]
        if head.task == "tokens":
            shape = ["batch", "sequence", count]
            self.token_scores(self.encoded(names), count)
            outputs = [tensor("probabilities", np.float32, shape), tensor("logits", np.float32, shape)]
        else:
            scores = self.sentence_scores(self.encoded(names), count)
            graph.output("Identity", [scores], "logits")
            operator = {"softmax": "Softmax", "sigmoid": "Sigmoid", "none": "Identity"}[head.activation]
            shown = "prediction" if head.activation == "none" else "probabilities"
            graph.output(operator, ["logits"], shown, **({"axis": -1} if operator == "Softmax" else {}))
            outputs = [tensor(shown, np.float32, shape), tensor("logits", np.float32, shape)]
        metadata = {"architecture": self.config.family, "max_sequence": str(self.config.longest)}
        return graph.model(inputs, outputs, metadata=metadata)

    def sentence_scores(self, hidden: str, labels: int) -> str:
        """Scores of a sentence [batch, labels], from its first token, through the family's head."""
        graph, width, family = self.graph, self.config.hidden, self.config.family
        first = self.pool(hidden, "cls")
        if family == "bert":
            pooled = graph.add("Tanh", [self.head(first, f"{self.pooler}pooler.dense", width, width)], "head.pooled")
            return self.head(pooled, "classifier", width, labels)
        if family == "distilbert":
            pooled = graph.add("Relu", [self.head(first, "pre_classifier", width, width)], "head.pooled")
            return self.head(pooled, "classifier", width, labels)
        pooled = graph.add("Tanh", [self.head(first, "classifier.dense", width, width)], "head.pooled")
        return self.head(pooled, "classifier.out_proj", width, labels)

    def token_scores(self, hidden: str, labels: int) -> None:
        """The outputs of each token [batch, sequence, labels]: computed for tokens only, 0 where padding is."""
        graph = self.graph
        scores = self.head(hidden, "classifier", self.config.hidden, labels)  # (tokens, labels)
        shares = graph.add("Softmax", [scores], "head.shares", axis=-1)
        grid = graph.add("Shape", ["input_ids"], "head.grid")
        wide = graph.add("Concat", [grid, graph.ints("head.labels", labels)], "head.wide", axis=0)
        mask = graph.add("Unsqueeze", [self.mask, graph.ints("head.last", -1)], "head.mask")
        for values, name in ((shares, "probabilities"), (scores, "logits")):
            rows = graph.add("Gather", [values, self.spread], f"{name}.rows")
            spread = graph.add("Reshape", [rows, wide], f"{name}.spread")
            graph.output("Mul", [spread, mask], name)

    @property
    def pooler(self) -> str:
        """What stands before the names of BERT's pooler, which is part of the encoder."""
        return self.config.prefix

    def head(self, values: str, name: str, inner: int, outer: int) -> str:
        """A linear layer of the head, whose weights stand beside the encoder's."""
        weight = self.graph.constant(f"{name}.weight", self.head_weights.take(f"{name}.weight", outer, inner).T)
        offset = self.graph.constant(f"{name}.bias", self.head_weights.take(f"{name}.bias", outer))
        return self.graph.add("Gemm", [values, weight, offset], name)

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
        words = self.take("embeddings.word_embeddings.weight", config.vocabulary, config.hidden)
        positions = self.take("embeddings.position_embeddings.weight", config.positions, config.hidden)
        summed = graph.add("Gather", [graph.constant("words", words), self.packed("input_ids")], "embeddings.words")
        if config.token_types:
            types = self.take("embeddings.token_type_embeddings.weight", config.token_types, config.hidden)
            if token_types:
                typed = graph.add(
                    "Gather", [graph.constant("types", types), self.packed("token_type_ids")], "embeddings.types"
                )
                summed = graph.add("Add", [summed, typed], "embeddings.typed")
            else:
                positions = positions + types[0]
        placed = graph.add("Gather", [graph.constant("positions", positions), self.places()], "embeddings.positions")
        summed = graph.add("Add", [summed, placed], "embeddings.sum")
        return self.normalise(summed, "embeddings.LayerNorm")

    def places(self) -> str:
        """The position of each token [tokens]: its column, or how many tokens that are no padding come up to it."""
        graph, padding = self.graph, self.config.padding
        if padding is None:
            return graph.add("Mod", [self.kept, self.sequence], "columns")
        filler = graph.constant("padding.id", np.array(padding, np.int64))
        is_padding = graph.add("Equal", ["input_ids", filler], "padding.is")
        counted = graph.add("Cast", [graph.add("Not", [is_padding], "padding.not")], "padding.whole", to=7)
        axis = graph.constant("padding.axis", np.array(1, np.int64))
        counts = graph.add("Mul", [graph.add("CumSum", [counted, axis], "padding.sum"), counted], "padding.counts")
        places = graph.add("Reshape", [graph.add("Add", [counts, filler], "places"), self.flat], "places.flat")
        return graph.add("Gather", [places, self.kept], "places.packed")

    def take(self, name: str, *shape: int) -> Array:
        """A weight by the name that BERT gives it."""
        return self.weights.take(self.config.weight(name), *shape)

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
            weight = self.take(f"{prefix}self.{part}.weight", hidden, hidden)
            offset = self.take(f"{prefix}self.{part}.bias", hidden)
            weights.append((weight.T.astype(np.float64) * factor).astype(np.float32))
            offsets.append((offset.astype(np.float64) * factor).astype(np.float32))
        return np.concatenate(weights, axis=1), np.concatenate(offsets)

    def dense(self, values: str, name: str, inner: int, outer: int) -> str:
        """A linear layer, [tokens, inner] to [tokens, outer]."""
        weight = self.graph.constant(f"{name}.weight", self.take(f"{name}.weight", outer, inner).T)
        offset = self.graph.constant(f"{name}.bias", self.take(f"{name}.bias", outer))
        return self.graph.add("Gemm", [values, weight, offset], name)

    def normalise(self, values: str, name: str) -> str:
        """Layer normalisation over the last axis."""
        scale = self.graph.constant(f"{name}.weight", self.take(f"{name}.weight", self.config.hidden))
        offset = self.graph.constant(f"{name}.bias", self.take(f"{name}.bias", self.config.hidden))
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


def _renamed(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors by today's names: folders that came from TensorFlow call a norm's weights gamma and beta."""
    old = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    return {
        next((name.replace(was, now) for was, now in old.items() if name.endswith(was)), name): value
        for name, value in tensors.items()
    }
