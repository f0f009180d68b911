"""What the config.json of a BERT, RoBERTa, XLM-RoBERTa, CamemBERT or DistilBERT folder says of the model.

The families are one architecture with other names and other positions; the differences are told here, so that one
graph writer serves them all. What a graph would get wrong is refused by its key.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onward.package.importers.graph import UnsupportedModel

Task = Literal["encoder", "sequence", "tokens"]
Activation = Literal["softmax", "sigmoid", "none"]

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
_AS_ROBERTA = frozenset({"roberta", "xlm-roberta", "camembert"})
_SEQUENCE, _TOKENS = "ForSequenceClassification", "ForTokenClassification"
_ENCODERS = ("Model", "ForMaskedLM", "ForPreTraining", "LMHeadModel")
_OTHER_KEYS = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    }
}
# DistilBERT's names for what BERT has, in the order in which they are looked for.
_DISTILBERT = (
    (r"^encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.", r"transformer.layer.\1.attention.\2_lin."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"transformer.layer.\1.attention.out_lin."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"transformer.layer.\1.sa_layer_norm."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"transformer.layer.\1.ffn.lin1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"transformer.layer.\1.ffn.lin2."),
    (r"^encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"transformer.layer.\1.output_layer_norm."),
)
_LINEAR = {"query": "q", "key": "k", "value": "v"}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What the graph needs of a config.json.

    `padding` is the id of the padding token where positions are counted from the tokens that are none, beginning one
    above it, as RoBERTa does; None where a token's position is its column. `token_types` is 0 where there are none.
    """

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    token_types: int
    epsilon: float
    padding: int | None = None

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def longest(self) -> int:
        """The most tokens that a text may have."""
        return self.positions - (0 if self.padding is None else self.padding + 1)

    @property
    def prefix(self) -> str:
        """What stands before the encoder's weights in a model with a head."""
        return "roberta." if self.family in _AS_ROBERTA else f"{self.family}."

    def weight(self, name: str) -> str:
        """The family's name of a weight that BERT calls `name`."""
        if self.family == "distilbert":
            for pattern, ours in _DISTILBERT:
                renamed, count = re.subn(pattern, ours, name)
                if count:
                    return re.sub(r"(query|key|value)_lin", lambda found: f"{_LINEAR[found[1]]}_lin", renamed)
        return name


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What stands on the encoder: `labels` by index, and how scores become what an answer shows."""

    task: Task
    labels: tuple[str, ...] = ()
    activation: Activation = "softmax"


def read_config(file: Path) -> EncoderConfig:
    """Read config.json. Raises UnsupportedModel, naming the key, for what the graph would get wrong."""
    config = _content(file)
    require(config, "model_type", set(FAMILIES), default=None)
    family = str(config["model_type"])
    keys = _OTHER_KEYS.get(family, {})
    require(config, keys.get("hidden_act", "hidden_act"), {"gelu"}, default="gelu")
    require(config, "position_embedding_type", {"absolute"}, default="absolute")
    require(config, "is_decoder", {False}, default=False)
    require(config, "add_cross_attention", {False}, default=False)
    read = EncoderConfig(
        family=family,
        vocabulary=_positive(config, "vocab_size"),
        hidden=_positive(config, keys.get("hidden_size", "hidden_size")),
        layers=_positive(config, keys.get("num_hidden_layers", "num_hidden_layers")),
        heads=_positive(config, keys.get("num_attention_heads", "num_attention_heads")),
        intermediate=_positive(config, keys.get("intermediate_size", "intermediate_size")),
        positions=_positive(config, "max_position_embeddings"),
        token_types=0 if family == "distilbert" else _positive(config, "type_vocab_size"),
        epsilon=1e-12 if family == "distilbert" else _epsilon(config),
        padding=_padding(config) if family in _AS_ROBERTA else None,
    )
    if read.hidden % read.heads:
        raise UnsupportedModel(
            "hidden_size is not a multiple of num_attention_heads",
            where="hidden_size", expected=f"a multiple of {read.heads}", found=str(read.hidden),
        )  # fmt: skip
    if read.longest < 1:
        raise UnsupportedModel("no position is left for a token", where="max_position_embeddings")
    return read


def read_head(file: Path) -> HeadConfig:
    """What config.json says of the model's head. Raises UnsupportedModel for a head that the graph does not have."""
    config = _content(file)
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else "Model"
    if not isinstance(name, str) or not name.endswith((_SEQUENCE, _TOKENS, *_ENCODERS)):
        expected = f"…{_SEQUENCE}, …{_TOKENS} or an encoder"
        raise UnsupportedModel("this head is not known", where="architectures", expected=expected, found=f'"{name}"')
    if name.endswith(_ENCODERS):
        return HeadConfig(task="encoder")
    labels = _labels(config)
    if name.endswith(_TOKENS):
        return HeadConfig(task="tokens", labels=labels)
    kinds = {"single_label_classification", "multi_label_classification", "regression"}
    usual = "regression" if len(labels) == 1 else "single_label_classification"
    kind = config.get("problem_type") or usual
    require({"problem_type": kind}, "problem_type", kinds, default=None)
    activations: dict[str, Activation] = {"multi_label_classification": "sigmoid", "regression": "none"}
    return HeadConfig(task="sequence", labels=labels, activation=activations.get(kind, "softmax"))


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """The labels by index; transformers' own names where the folder has none."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not named:
        count = config.get("num_labels", 2)
        count = count if isinstance(count, int) and not isinstance(count, bool) and 0 < count < 1 << 20 else 2
        return tuple(f"LABEL_{index}" for index in range(count))
    try:
        labels = {int(index): str(label) for index, label in named.items()}
    except ValueError:
        labels = {}
    if sorted(labels) != list(range(len(named))):
        raise UnsupportedModel("id2label does not name each label once", where="id2label", expected="0, 1, 2 …")
    texts = tuple(labels[index] for index in range(len(labels)))
    if len(set(texts)) != len(texts) or any(not text.strip() or len(text.splitlines()) != 1 for text in texts):
        raise UnsupportedModel("labels are empty, of several lines, or the same", where="id2label")
    return texts


def _content(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModel(f"config.json cannot be read: {error}", where=str(file)) from error
    if not isinstance(config, dict):
        raise UnsupportedModel("config.json is not an object", where=str(file))
    return config


def require(config: dict[str, Any], key: str, allowed: set[Any], *, default: Any) -> None:
    """Raise UnsupportedModel where a key has none of the values allowed."""
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


def _padding(config: dict[str, Any]) -> int:
    value = config.get("pad_token_id", 1)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 20:
        raise UnsupportedModel("config.json lacks the id of the padding", where="pad_token_id", found=json.dumps(value))
    return value


def _epsilon(config: dict[str, Any]) -> float:
    value = config.get("layer_norm_eps", 1e-12)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise UnsupportedModel("config.json lacks a small number", where="layer_norm_eps", found=json.dumps(value))
    return float(value)
