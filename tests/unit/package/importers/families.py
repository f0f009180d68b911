"""Small random models of each Hugging Face family, and the architecture in NumPy's double precision beside them.

Written from the papers and the families' own weight names; shares nothing with the importer.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

Floats = np.ndarray[Any, Any]
HIDDEN, HEADS, LAYERS, WIDE, POSITIONS = 16, 4, 2, 24, 20
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "the", "cat", "sat", "on", "ann", "smith", "of", "oslo", "paris", "and",
         "##ville", "bank", ".", "it", "was", "good"]  # fmt: skip
PADDING = 1
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
ARCHITECTURES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert",
                 "distilbert": "DistilBert"}  # fmt: skip


class Family:
    """One random model of a family, with a head for `labels` of a sequence or of each token."""

    def __init__(self, family: str, *, task: str = "Sequence", labels: int = 3, **config: Any) -> None:
        self.family = family
        self.task = task
        self.labels = labels
        self.is_roberta = family not in ("bert", "distilbert")
        self.prefix = "roberta." if self.is_roberta else f"{family}."
        self.config = self._config() | config
        self.weights = self._weights()

    def _config(self) -> dict[str, Any]:
        architecture = f"{ARCHITECTURES[self.family]}For{self.task}Classification"
        common = {"model_type": self.family, "architectures": [architecture], "vocab_size": len(WORDS),
                  "max_position_embeddings": POSITIONS, "pad_token_id": PADDING if self.is_roberta else 0,
                  "id2label": {str(index): f"LABEL_{index}" for index in range(self.labels)}}  # fmt: skip
        if self.family == "distilbert":
            return common | {"dim": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": WIDE,
                             "activation": "gelu"}  # fmt: skip
        return common | {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
                         "intermediate_size": WIDE, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
                         "type_vocab_size": 1 if self.is_roberta else 2}  # fmt: skip

    def layer_names(self, layer: int) -> dict[str, str]:
        """What the family calls the parts of a layer."""
        if self.family == "distilbert":
            inside = f"{self.prefix}transformer.layer.{layer}."
            names = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm",
                     "ffn.lin1", "ffn.lin2", "output_layer_norm")  # fmt: skip
        else:
            inside = f"{self.prefix}encoder.layer.{layer}."
            names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                     "attention.output.LayerNorm", "intermediate.dense", "output.dense",
                     "output.LayerNorm")  # fmt: skip
        return {part: inside + name for part, name in zip("qkvoa12n", names, strict=True)}

    def _weights(self) -> dict[str, Floats]:
        shapes: dict[str, tuple[int, ...]] = {
            f"{self.prefix}embeddings.word_embeddings.weight": (len(WORDS), HIDDEN),
            f"{self.prefix}embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        }
        if self.family != "distilbert":
            types = self.config["type_vocab_size"]
            shapes[f"{self.prefix}embeddings.token_type_embeddings.weight"] = (types, HIDDEN)
        linear, norms = {}, [f"{self.prefix}embeddings.LayerNorm"]
        for layer in range(LAYERS):
            names = self.layer_names(layer)
            linear |= {names[part]: (HIDDEN, HIDDEN) for part in "qkvo"}
            linear |= {names["1"]: (WIDE, HIDDEN), names["2"]: (HIDDEN, WIDE)}
            norms += [names["a"], names["n"]]
        linear |= self._head_shapes()
        for name, shape in linear.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for name in norms:
            shapes |= {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}
        random = np.random.default_rng(len(self.family) + self.labels)
        return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    def _head_shapes(self) -> dict[str, tuple[int, int]]:
        out, square = (self.labels, HIDDEN), (HIDDEN, HIDDEN)
        if self.task == "Token":
            return {"classifier": out}
        if self.is_roberta:
            return {"classifier.dense": square, "classifier.out_proj": out}
        first = f"{self.prefix}pooler.dense" if self.family == "bert" else "pre_classifier"
        return {first: square, "classifier": out}

    def logits(self, ids: Sequence[int]) -> Floats:
        """What the model gives for one text without padding: [labels], or [tokens, labels]."""
        x = self.hidden(ids)
        if self.task == "Token":
            return self._linear(x, "classifier")
        if self.is_roberta:
            return self._linear(np.tanh(self._linear(x[0], "classifier.dense")), "classifier.out_proj")
        if self.family == "bert":
            return self._linear(np.tanh(self._linear(x[0], "bert.pooler.dense")), "classifier")
        return self._linear(np.maximum(self._linear(x[0], "pre_classifier"), 0), "classifier")

    def hidden(self, ids: Sequence[int]) -> Floats:
        """Token vectors [tokens, hidden] after the last layer."""
        places = list(range(len(ids)))
        if self.is_roberta:  # counted from the tokens that are no padding, beginning one above it
            places, count = [], 0
            for token in ids:
                count += token != PADDING
                places.append(PADDING + count if token != PADDING else PADDING)
        x = self._table("word")[list(ids)] + self._table("position")[places]
        if self.family != "distilbert":
            x = x + self._table("token_type")[0]
        x = self._norm(x, f"{self.prefix}embeddings.LayerNorm")
        for layer in range(LAYERS):
            names = self.layer_names(layer)
            query, key, value = (self._linear(x, names[part]) for part in "qkv")
            mixed = np.empty_like(x)
            for head in range(HEADS):
                of = slice(head * HIDDEN // HEADS, (head + 1) * HIDDEN // HEADS)
                scores = query[:, of] @ key[:, of].T / np.sqrt(HIDDEN / HEADS)
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                mixed[:, of] = scores / scores.sum(axis=1, keepdims=True) @ value[:, of]
            x = self._norm(x + self._linear(mixed, names["o"]), names["a"])
            wide = self._linear(x, names["1"])
            wide = wide / 2 * (1 + np.vectorize(math.erf)(wide / np.sqrt(2)))
            x = self._norm(x + self._linear(wide, names["2"]), names["n"])
        return x

    def _table(self, kind: str) -> Floats:
        return self.weights[f"{self.prefix}embeddings.{kind}_embeddings.weight"].astype(np.float64)

    def _linear(self, x: Floats, name: str) -> Floats:
        made: Floats = x @ self.weights[f"{name}.weight"].T.astype(np.float64) + self.weights[f"{name}.bias"]
        return made

    def _norm(self, x: Floats, name: str) -> Floats:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-12)
        made: Floats = x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return made

    def write(self, folder: Path) -> Path:
        """The folder as `save_pretrained` leaves it, with a tokenizer of words and pieces of words."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config), "utf-8")
        write_safetensors(folder / "model.safetensors", self.weights)
        tokenizer().save(str(folder / "tokenizer.json"))
        return folder


def write_safetensors(file: Path, weights: dict[str, Floats]) -> None:
    """A safetensors file of FP32 tensors."""
    header, data = {}, b""
    for name, value in weights.items():
        offsets = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        data += value.tobytes()
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def tokenizer() -> Tokenizer:
    """Words and pieces of words in small letters, between <s> and </s>."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix="##"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return made
