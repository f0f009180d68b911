"""The two protocols a model runs behind: `Batched`, where we form the batches, and `Streaming`, where the engine does.

Knows nothing of packages, files or HTTP. A backend is driven from one thread at a time per instance.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from onward.types import Array, CancelToken, Event, TensorSpec


@runtime_checkable
class Batched(Protocol):
    """A model that answers a whole batch in one forward pass.

    The first dimension of every input and output tensor is the batch (rows). Row i of every output depends on
    row i of the inputs alone.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it can give."""
        ...

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """One forward pass: the named outputs, in the order asked for. Raises `ExecutionError`."""
        ...

    def close(self) -> None:
        """Free what it holds; idempotent. `run` must not be called afterwards."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a streaming engine says a request will cost before it starts: tokens to read and, at most, to write."""

    prompt_tokens: int
    max_new_tokens: int


Tell: TypeAlias = Callable[[Event], bool]
"""Takes an event of a stream; True: nobody wants more."""


@runtime_checkable
class Driven(Protocol):
    """A streaming engine that can work on the thread it is asked from, which saves a hand-over for every token."""

    def drive(self, asked: Any, cancel: CancelToken, tell: Tell, /) -> None:
        """As `Streaming.stream`, but each event is told."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """An engine that schedules by itself: we admit, count tokens, hand events on and cancel.

    What it is asked is a `Prompt` where it generates text, a `Speech` where it speaks. Several threads may each drive
    a stream of their own.
    """

    def admit(self, asked: Any, /) -> Admission:
        """Check what is asked and count its cost in tokens. Raises `InputError` or `TooLarge`."""
        ...

    def stream(self, asked: Any, cancel: CancelToken, /) -> Generator[Event, None, None]:
        """The answer, piece by piece; the last event has kind "end" and the whole as its attribute "answer".

        Ends within one step of `cancel`, then without an "end", and when the generator is closed.
        """
        ...

    def close(self) -> None:
        """Free what it holds; idempotent."""
        ...
