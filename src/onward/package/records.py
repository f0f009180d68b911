"""The records of a manifest: what `onward.toml` says, as frozen values.

Knows nothing of TOML, files or graphs; `onward.package.manifest` reads and writes them. Attributes are the TOML
keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from onward.types import Field, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageInfo:
    """`[package]`: what the package is called and what it does."""

    name: str
    version: str
    task: str = "tensor"
    licence: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`step = "table"`: scalar fields become one FP32 matrix [1, columns]; a category becomes its index."""

    step: ClassVar[str] = "table"
    columns: tuple[str, ...]
    output: str = "features"
    unknown: Literal["error", "nan"] = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenize:
    """`step = "tokenize"`: text becomes INT64 tensors [1, length]: token ids, mask and, third, token types."""

    step: ClassVar[str] = "tokenize"
    input: str
    file: str = "tokenizer.json"
    max_tokens: int = 256
    outputs: tuple[str, ...] = ("input_ids", "attention_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeImage:
    """`step = "decode_image"`: an image file becomes UINT8 [height, width, 3], RGB, turned as EXIF says."""

    step: ClassVar[str] = "decode_image"
    input: str
    output: str = "pixels"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareGraph:
    """`step = "graph"` in prepare: an ONNX graph run per item; its outputs have the batch dimension (1) first."""

    step: ClassVar[str] = "graph"
    file: str = "prepare.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeAudio:
    """`step = "decode_audio"`: an audio file becomes FP32 (samples,), mono, at `sample_rate_hz`, in -1 to 1."""

    step: ClassVar[str] = "decode_audio"
    input: str
    sample_rate_hz: int = 16_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechWindows:
    """`step = "speech_windows"`: of the samples, what is speech, in windows of at most `window_s` seconds.

    `file` is the voice activity model (Silero's ONNX), `threshold` the probability from which on it is speech.
    """

    step: ClassVar[str] = "speech_windows"
    file: str = "vad.onnx"
    window_s: float = 27.0
    threshold: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStep:
    """`step = "prompt"`: the item becomes what a language model is asked.

    Either `messages` names the input that holds the conversation, or `template` is the user's message, with
    `{name}` for the inputs. `system` stands before either, unless the conversation brings its own.
    """

    step: ClassVar[str] = "prompt"
    messages: str = ""
    system: str = ""
    template: str = ""


PrepareStep: TypeAlias = Table | Tokenize | DecodeImage | DecodeAudio | SpeechWindows | PromptStep | PrepareGraph
Backend: TypeAlias = Literal["onnx", "python", "llama", "whisper", "piper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """`[execute]`: which backend runs the model, how many instances, with how many threads (0: all cores).

    A language model generates `slots` texts at a time, each in a context of `context_tokens` (0: what the model was
    trained for, at most 4,096).
    """

    backend: Backend = "onnx"
    file: str = "model.onnx"
    entry: str = ""
    instances: int = 1
    threads: int = 0
    providers: tuple[str, ...] = ("cpu",)
    context_tokens: int = 0
    slots: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateGraph:
    """`step = "graph"` in generate: a batched ONNX graph over the model's outputs."""

    step: ClassVar[str] = "graph"
    file: str = "generate.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """`step = "labels"`: names the best scores. Without `indices`, `scores` is the full vector, sorted here."""

    step: ClassVar[str] = "labels"
    scores: str
    indices: str = ""
    file: str = "labels.txt"
    top_k: int = 5
    output: str = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """`step = "named"`: a vector output becomes a mapping of name to value."""

    step: ClassVar[str] = "named"
    input: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """`step = "catalogue"`: ids become records of a JSONL file, each with its score and, in words, why it is there.

    `reason` names the output that picks one of the texts `reasons` for each id; `{key}` in a text is filled from the
    record whose id the output `because` gives.
    """

    step: ClassVar[str] = "catalogue"
    ids: str
    scores: str = ""
    because: str = ""
    reason: str = ""
    reasons: tuple[str, ...] = ()
    file: str = "catalogue.jsonl"
    top_k: int = 10
    output: str = "items"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The outputs that it reads."""
        return tuple(filter(None, (self.ids, self.scores, self.because, self.reason)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entities:
    """`step = "entities"`: what a model says of each token of the text `input` becomes the entities in it.

    `scores` is [tokens, labels], the labels' names are in `file`: `B-PER`, `I-PER`, `O`. A word has the scores of its
    first token, the mean of all, or those of the token that is surest of its label (`aggregate`).
    """

    step: ClassVar[str] = "entities"
    scores: str
    input: str
    file: str = "labels.txt"
    aggregate: Literal["first", "mean", "max"] = "first"
    output: str = "entities"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """`step = "prose"`: the generated text must be a full paragraph, or it is generated again, `attempts` times in all.

    Every number in it must stand in one of the inputs `numbers_from`, and none of the texts `forbidden` may. It begins
    with `opening`, with `{name}` for the inputs. `quotes` says for members of its JSON which input they quote, line by
    line and word for word: the model only picks.
    """

    step: ClassVar[str] = "prose"
    input: str = "text"
    opening: str = ""
    min_words: int = 0
    min_sentences: int = 0
    numbers_from: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    quotes: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonText:
    """`step = "json"`: the generated text is JSON by the schema in `file`; its members become outputs.

    With `when`, only where that BOOL input is true. With `input`, the JSON is that BYTES output of any model, and what
    it says takes the output's place in the answer.
    """

    step: ClassVar[str] = "json"
    input: str = ""
    file: str = "schema.json"
    when: str = ""


GenerateStep: TypeAlias = GenerateGraph | Labels | Named | Catalogue | Entities | Prose | JsonText


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`[[stage]]`: another package as a part of this one. `inputs` says where each of its inputs comes from.

    A source is an input of this package (`"audio"`) or an output of an earlier stage (`"hear.text"`); of several, the
    first counts that there is. With `when`, the stage runs only where that source has one of the values `values`, or,
    with no values, where it is there and neither empty nor false nor 0; its outputs are absent otherwise.
    """

    name: str
    package: str
    version: str
    inputs: Mapping[str, tuple[str, ...]]
    when: str = ""
    values: tuple[str | bool | float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """`[batching]`: how requests are run together. `pad` names tensors padded along axis 1 and the value."""

    max_batch_size: int = 64
    max_queue_delay_us: int = 0
    mode: Literal["throughput", "invariant"] = "throughput"
    pad: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`[limits]`: what one request may ask for; checked before anything is allocated."""

    body_bytes: int = 8_388_608
    rows: int = 1024
    pixels: int = 40_000_000
    audio_s: float = 600.0
    tokens: int = 8192
    characters: int = 20_000
    deadline_ms: int = 10_000
    queue_rows: int = 2048
    queue_tokens: int = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSource:
    """`[profile]`: the input that names the entity, and what of its history counts.

    `ttl_s`: events older than that are not seen (None: all are). `max_events`: only so many of the latest are.
    """

    entity: str
    ttl_s: float | None = None
    max_events: int = 10_000


FeatureFunction: TypeAlias = Literal[
    "count", "sum", "mean", "minimum", "maximum", "distinct", "last", "last_n", "time_since"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """`[[feature]]`: a value computed from an entity's events, as `profile.NAME` in policies.

    `datatype` is that of the value (OIP words) or, for `last_n`, of the list's elements. `default` is the value where
    no event counts (None: the feature is absent then); `missing` stands for the field in events that lack it (None:
    those events do not count).
    """

    name: str
    kinds: tuple[str, ...]
    function: FeatureFunction
    field: str = ""
    window_s: float | None = None
    n: int = 1
    datatype: str = "FP64"
    default: float | str | bool | tuple[Any, ...] | None = None
    missing: float | str | bool | None = None
    description: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """`()` for a single value, `(-1,)` for a list."""
        return (-1,) if self.function == "last_n" else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole `onward.toml`. `file` and `lines` say where it was read from; they play no part in equality.

    A package of `stages` has no model of its own; `answer` says which stage each of its outputs comes from.
    """

    package: PackageInfo
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    prepare: tuple[PrepareStep, ...] = ()
    execute: Execute = field(default_factory=Execute)
    generate: tuple[GenerateStep, ...] = ()
    batching: Batching = field(default_factory=Batching)
    limits: Limits = field(default_factory=Limits)
    profile: ProfileSource | None = None
    features: tuple[Feature, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    stages: tuple[Stage, ...] = ()
    answer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    file: str = field(default="onward.toml", compare=False, repr=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    def where(self, key: str) -> str:
        """The place of a key for an error: `onward.toml:12: input[2].datatype`.

        A key that the text leaves out stands at the line of the nearest table around it.
        """
        return place(self.file, self.lines, key)


def place(file: str, lines: Mapping[str, int], key: str) -> str:
    """Where `key` stands in `file`, or where it would stand; see `Manifest.where`."""
    around = key
    while around and around not in lines:
        cut = max(around.rfind("."), around.rfind("["))
        around = around[:cut] if cut > 0 else ""
    line = f":{lines[around]}" if around else ""
    return f"{file}{line}: {key}" if key else f"{file}{line}"
