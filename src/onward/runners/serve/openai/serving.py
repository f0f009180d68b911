"""The served packages as the OpenAI API knows them: found by the name in a request, each for what it can do.

A `model` is a package's name, for its newest version, or `name==version`.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias, cast

from onward.runners.serve.models import AnyServed, Models
from onward.runners.serve.openai.errors import Refused
from onward.runners.serve.openai.runs import Admitting
from onward.runners.serve.served import ServedModel
from onward.runners.serve.streams import StreamedModel
from onward.types import PackageId

Ability: TypeAlias = Literal["chat", "embeddings", "transcription", "speech"]
_ABILITY_OF_TASK: dict[str, Ability] = {
    "text-embedding": "embeddings",
    "transcription": "transcription",
    "speech-synthesis": "speech",
}
_ROUTE = {
    "chat": "/v1/chat/completions and /v1/completions",
    "embeddings": "/v1/embeddings",
    "transcription": "/v1/audio/transcriptions",
    "speech": "/v1/audio/speech",
}
_STREAMING: tuple[Ability, ...] = ("transcription", "speech")
_LEAST_BODY_BYTES = 1 << 20


def ability(served: AnyServed) -> Ability | None:
    """What a package can do through this API; None: nothing."""
    manifest = served.pipeline.manifest
    if manifest.execute.backend == "llama":
        return "chat"
    found = None if manifest.stages else _ABILITY_OF_TASK.get(manifest.package.task)
    return None if found in _STREAMING and not isinstance(served, StreamedModel) else found


class LanguageModel(Admitting, Protocol):
    """A served package that generates text."""

    id: PackageId

    @property
    def pipeline(self) -> Any:
        """Its pipeline, with the manifest."""
        ...


class Serving:
    """The models of one server."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def get(self, model: str) -> AnyServed:
        """A served package. Raises `ModelNotFound` or `Unavailable`."""
        name, _, version = model.partition("==")
        return self._models.get(name, version)

    def all(self) -> list[AnyServed]:
        """The newest version of every package that can do something through this API."""
        newest = [self._models.get(name) for name in self._models.names()]
        return [served for served in newest if ability(served) is not None]

    def language_model(self, model: str) -> LanguageModel:
        """A package that generates text. Raises `Refused` for one that does something else."""
        return cast(LanguageModel, self._able(model, "chat"))

    def embedder(self, model: str) -> ServedModel:
        """A package that embeds texts."""
        return cast(ServedModel, self._able(model, "embeddings"))

    def transcriber(self, model: str) -> StreamedModel:
        """A package that writes down what it hears."""
        return cast(StreamedModel, self._able(model, "transcription"))

    def voice(self, model: str) -> StreamedModel:
        """A package that says texts."""
        return cast(StreamedModel, self._able(model, "speech"))

    def sound_limit(self) -> int:
        """The largest body with a sound in it, in bytes, that any transcriber takes."""
        found = [one.pipeline.manifest.limits.body_bytes for one in self.all() if ability(one) == "transcription"]
        return max(found, default=_LEAST_BODY_BYTES)

    def body_limit(self) -> int:
        """The largest body, in bytes, that any of them takes: which one is meant stands in the body itself."""
        limits = [one.pipeline.manifest.limits.body_bytes for one in self.all() if ability(one) != "transcription"]
        return max(limits, default=_LEAST_BODY_BYTES)

    def _able(self, model: str, wanted: Ability) -> AnyServed:
        served = self.get(model)
        found = ability(served)
        if found != wanted:
            instead = f"use {_ROUTE[found]}" if found else f"use POST /models/{served.id.name}"
            raise Refused(f"model {model!r} does not do this; {instead}", param="model", kind="unsupported_model")
        return served
