"""The vocabulary: what flows through the pipeline, as frozen records.

Knows nothing of files, models, HTTP or time. Everything else in Onward imports from here; this module
imports nothing of ours.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

# Open Inference Protocol datatypes and the numpy types they travel as. BYTES elements are `bytes` objects.
NUMPY_OF_DATATYPE: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
DATATYPE_OF_NUMPY: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in NUMPY_OF_DATATYPE.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor of a graph: `shape` includes the batch dimension first; -1 is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the tensor's elements."""
        return NUMPY_OF_DATATYPE[self.datatype]


Content = Literal["value", "text", "image", "audio", "chat"]
"""What a field holds; "chat" is a list of messages, `{"role": …, "content": …}`, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One `[[input]]` or `[[output]]` of a manifest: `shape` is that of one item, without the batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    content: Content = "value"
    units: str = ""
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    default: float | str | bool | None = None
    required: bool = True
    on_request: bool = False
    private: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a package takes and gives: the item's fields, and the tensors of its batched graphs."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    tensor_inputs: tuple[TensorSpec, ...]
    tensor_outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageId:
    """Which package answered: `digest` is the package digest of `onward.lock` (SHA-256, hex)."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes with a media type: an image or audio clip as input or output."""

    data: bytes
    media_type: str


@dataclass(slots=True, kw_only=True)
class Prepared:
    """One item brought to the model's form. Every tensor has the item's rows as first dimension.

    `length` is the size of the padded axis for inputs of variable length (tokens), else 0.
    """

    tensors: dict[str, Array]
    rows: int = 1
    length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCall:
    """An action that a decision wants, with its typed arguments. Whether it may happen is not decided here."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a policy made of a result: the outcome, the rule that fired, why, and what is to be done about it.

    `arguments` are values the outcome carries to the caller (`route:queue` with a priority, an amount to show).
    """

    outcome: str
    rule: str
    reasons: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[ActionCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An answer: `answer` is what a person reads, `tensors` the raw outputs of the item (rows first)."""

    answer: Mapping[str, Any]
    tensors: Mapping[str, Array]
    package: PackageId
    decision: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One piece of a streamed answer. The last event of a stream has kind "end" and, where there is one, the result."""

    kind: Literal["delta", "blob", "notice", "end"]
    text: str = ""
    blob: Blob | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    result: Result | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a language model picks tokens, and when it stops. `seed` None: another text each time.

    `temperature` 0 always takes the likeliest token. `logprobs` is the number of alternatives told with each token
    (0: only the token's own; None: none are told). `json_schema` and `grammar` (GBNF) say what the text must be.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    json_schema: Mapping[str, Any] | None = None
    grammar: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a language model is asked: `messages` in the OpenAI form for its chat template, or a `text` to go on with.

    `tools` are function declarations in the OpenAI form, `tool_choice` what is asked of them ("" is "auto").
    """

    sampling: Sampling
    messages: tuple[Mapping[str, Any], ...] = ()
    text: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] = ""


class CancelToken:
    """Says, from any thread, that nobody waits for a piece of work any more."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Mark the work as unwanted; idempotent."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` has been called."""
        return self._event.is_set()


Item: TypeAlias = Mapping[str, Any]
"""One input as the pipeline takes it: a value for each input field; images and audio as `bytes`."""

Input: TypeAlias = Mapping[str, Any] | str | bytes | Sequence[Any] | Array
"""What a person may pass: an item, or the bare value when the package has a single input field."""
