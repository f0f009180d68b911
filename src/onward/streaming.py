"""A package whose engine streams: prepare → execute piece by piece → generate, as in `onward.pipeline`.

A language model writes, a transcriber writes down, a voice speaks. What is generated may have to pass a check first;
then it is generated again while it does not, and told only once it has passed. Knows nothing of connections, budgets or
metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onward.decide.policy import Policy, Profile
from onward.errors import Cancelled, ExecutionError, InputError, OnwardError, PackageError, UnknownOutput
from onward.execute.backend import Admission, Driven, Streaming, Tell
from onward.generate.prose import Writing
from onward.package.examples import check_example, read_examples
from onward.package.manifest import POLICY_FILE
from onward.package.package import Package, open_package
from onward.prepare.prompt import PromptPreparation
from onward.types import CancelToken, Event, Input, Item, Prompt, Result, Signature

if TYPE_CHECKING:
    from onward.dialogue.dialogue import Dialogue
    from onward.prepare.speech import Speech, SpeechPreparation
    from onward.prepare.transcription import Sound, SoundPreparation

STREAMING_BACKENDS = ("llama", "piper", "whisper")
_log = logging.getLogger("onward.streaming")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An item, brought to what its engine is asked, and the outputs that its answer has beyond the usual ones."""

    item: Item
    asked: Prompt | Speech | Sound
    outputs: tuple[str, ...] = ()


class StreamingPipeline:
    """A package of a language model, a transcriber or a voice, opened: call it, or `stream` its answer."""

    policy: Policy | None = None
    dialogue: Dialogue | None = None

    def __init__(self, package: Package, *, engine: Streaming | None = None) -> None:
        """`engine` None: that of the manifest's backend. Raises `PackageError`, `MissingExtra`."""
        self.package = package
        self.manifest = package.manifest
        if (package.folder / POLICY_FILE).is_file():
            expected = "no policy in a package that streams: make it a stage of one that decides"
            raise PackageError("a package that streams cannot decide", where=POLICY_FILE, expected=expected)
        self.writing = Writing(self.manifest, package.folder)
        self.signature = Signature(
            inputs=self.manifest.inputs, outputs=self.manifest.outputs, tensor_inputs=(), tensor_outputs=()
        )
        self._prompts: PromptPreparation | None = None
        self._sound: SpeechPreparation | SoundPreparation
        if self.manifest.execute.backend == "piper":
            from onward.prepare.speech import SpeechPreparation

            self._sound = SpeechPreparation(self.manifest)
        elif self.manifest.execute.backend == "whisper":
            from onward.prepare.transcription import SoundPreparation

            self._sound = SoundPreparation(self.manifest, package.folder)
        else:
            self._prompts = PromptPreparation(self.manifest)
        self.engine = engine if engine is not None else _engine(package)

    @classmethod
    def open(cls, path: str | Path, *, check: bool = True) -> StreamingPipeline:
        """Open a package folder or archive: verify its digests, load it and, unless told not to, run its examples."""
        pipeline = cls(open_package(Path(path)))
        try:
            if check:
                pipeline.check_examples()
        except BaseException:
            pipeline.close()
            raise
        return pipeline

    def __call__(self, value: Input, *, outputs: Sequence[str] = (), profile: Profile | None = None) -> Result:
        """Answer one input, whole. `outputs` adds outputs that are given only on request."""
        return self._whole(self.prepare(self.item(value), outputs))

    def batch(self, values: Sequence[Input], *, outputs: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Result]:
        """Answer several inputs, in order; the engine works at as many together as it has slots.

        `seeds`, one for each, are for texts that are asked for without a seed.
        Raises `InputError`; its `where` begins with the index of the input when there are several.
        """
        work = []
        for index, value in enumerate(values):
            try:
                one = self.prepare(self.item(value), outputs)
                work.append(_seeded(one, seeds[index]) if seeds else one)
            except OnwardError as error:
                if len(values) > 1:
                    error.where = f"[{index}] {error.where}".rstrip()
                raise
        if len(work) < 2:
            return [self._whole(one) for one in work]
        with ThreadPoolExecutor(min(len(work), self.manifest.execute.slots)) as threads:
            return list(threads.map(self._whole, work))

    def stream(self, value: Input, cancel: CancelToken, *, outputs: Sequence[str] = ()) -> Generator[Event, None, None]:
        """The answer, piece by piece; the last event has kind "end" and the whole. Ends early once cancelled."""
        yield from self.run(self.prepare(self.item(value), outputs), cancel)

    def item(self, value: Input) -> Item:
        """What a person passed, as an item: a bare value stands for the only input that must be there."""
        if isinstance(value, Mapping):
            return value
        needed = [field for field in self.manifest.inputs if field.required and field.default is None]
        fields = needed or self.manifest.inputs[:1]
        if len(fields) == 1:
            return {fields[0].name: value}
        raise InputError(
            "this package has several inputs",
            expected=f"a mapping with {', '.join(field.name for field in fields)}",
            found=type(value).__name__,
        )

    def prepare(self, item: Item, outputs: Sequence[str] = ()) -> Work:
        """The item, checked and in the engine's form. Raises `InputError`, `UnknownOutput`."""
        names = [field.name for field in self.manifest.outputs]
        for output in outputs:
            if output not in names:
                raise UnknownOutput(where=output, expected=f"one of {', '.join(names)}", found=repr(output))
        if self._prompts is None:
            return Work(item=item, asked=self._sound(item), outputs=tuple(outputs))
        values = self._prompts.complete(item)
        prompt = self._prompts(values)
        grammar = self.writing.grammar(values)
        schema = None if grammar else self.writing.schema(values)
        if grammar or schema is not None:
            prompt = replace(prompt, sampling=replace(prompt.sampling, grammar=grammar, json_schema=schema))
        return Work(item=values, asked=prompt, outputs=tuple(outputs))

    def admit(self, work: Work | Prompt | Speech | Sound) -> Admission:
        """What the engine will read and, at most, write in one attempt. Raises `InputError`, `TooLarge`."""
        return self.engine.admit(work.asked if isinstance(work, Work) else work)

    def run(self, work: Work | Prompt | Speech | Sound, cancel: CancelToken) -> Generator[Event, None, None]:
        """The events of an answer. What is asked of the engine directly is answered as the engine answers.

        The last event's attribute "answer" is the engine's own: its text, why it ended, its tokens. Raises
        `ExecutionError`, also where no attempt passed its check.
        """
        if not isinstance(work, Work):
            for event in self.engine.stream(work, cancel):
                yield replace(event, result=self._result(event.attributes["answer"])) if event.kind == "end" else event
        elif self.writing.checks:
            yield from self._checked(work, cancel)
        else:
            for event in self.engine.stream(work.asked, cancel):
                yield replace(event, result=self._finish(work, event)) if event.kind == "end" else event

    def drive(self, work: Work | Prompt | Speech | Sound, cancel: CancelToken, tell: Tell) -> None:
        """As `run`, but each event is told, from this thread where the engine can; `tell` says True to end it."""
        engine = self.engine
        if not isinstance(engine, Driven) or (isinstance(work, Work) and self.writing.checks):
            with closing(self.run(work, cancel)) as events:
                any(tell(event) for event in events)
            return

        def finished(event: Event) -> bool:
            if event.kind != "end":
                return tell(event)
            answer = event.attributes["answer"]
            result = self._finish(work, event) if isinstance(work, Work) else self._result(answer)
            return tell(replace(event, result=result))

        engine.drive(work.asked if isinstance(work, Work) else work, cancel, finished)

    def check_examples(self) -> int:
        """Run the golden examples: warm-up and check in one. Raises `GoldenExampleFailed`; returns their number."""
        examples = read_examples(self.package.folder)
        names = {field.name for field in self.manifest.outputs}
        for example in examples:
            check_example(example, self(example.input, outputs=[name for name in example.answer if name in names]))
        return len(examples)

    def close(self) -> None:
        """Free the engine; idempotent. Also a context manager."""
        self.engine.close()

    def __enter__(self) -> StreamingPipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _whole(self, work: Work) -> Result:
        result = None
        for event in self.run(work, CancelToken()):
            result = event.result
        if result is None:
            raise Cancelled("the engine was closed before the answer was whole")
        return result

    def _checked(self, work: Work, cancel: CancelToken) -> Generator[Event, None, None]:
        """Attempts until one passes; each is told of as a notice, the text at once when it has passed."""
        written = 0
        problems: list[str] = []
        for attempt in range(self.writing.attempts):
            end = self._attempt(work, attempt, cancel)
            if end is None:
                return
            answer = end.attributes["answer"]
            written += answer["completion_tokens"]
            problems = self.writing.check(answer["text"], work.item)
            if not problems:
                answer = {**answer, "completion_tokens": written, "attempts": attempt + 1}
                yield Event(kind="delta", text=answer["text"])
                end = replace(end, attributes={"answer": answer})
                yield replace(end, result=self._finish(work, end))
                return
            _log.info("%s: attempt %d of %d did not pass: %s", self.package.id.name, attempt + 1,
                      self.writing.attempts, "; ".join(problems))  # fmt: skip
            yield Event(kind="notice", text=f"attempt {attempt + 1} did not pass: {'; '.join(problems)}")
        raise ExecutionError(
            f"no text passed in {self.writing.attempts} attempts", where=self.package.id.name,
            found="; ".join(problems[:5]),
        )  # fmt: skip

    def _attempt(self, work: Work, attempt: int, cancel: CancelToken) -> Event | None:
        asked = work.asked
        if isinstance(asked, Prompt) and asked.sampling.seed is not None and attempt:
            # Another seed, or the same text would be refused again.
            seed = (asked.sampling.seed + attempt) % (1 << 32)
            asked = replace(asked, sampling=replace(asked.sampling, seed=seed))
        with closing(self.engine.stream(asked, cancel)) as events:
            return next((event for event in events if event.kind == "end"), None)

    def _finish(self, work: Work, end: Event) -> Result:
        answer: dict[str, Any] = dict(end.attributes["answer"])
        members: dict[str, Any] = {}
        if isinstance(work.asked, Prompt):
            members = self.writing.fields(answer["text"], work.item)
        known = answer | members
        # The members of a JSON text are the answer, whether or not they are asked for one by one.
        wanted = {
            field.name
            for field in self.manifest.outputs
            if not field.on_request or field.name in work.outputs or field.name in members
        }
        return self._result({name: value for name, value in known.items() if name in wanted})

    def _result(self, answer: Mapping[str, Any]) -> Result:
        return Result(answer=answer, tensors={}, package=self.package.id)


def _seeded(work: Work, seed: int) -> Work:
    asked = work.asked
    if not isinstance(asked, Prompt) or asked.sampling.seed is not None:
        return work
    return replace(work, asked=replace(asked, sampling=replace(asked.sampling, seed=seed)))


def _engine(package: Package) -> Streaming:
    if package.manifest.execute.backend == "piper":
        from onward.execute.piper import PiperBackend

        return PiperBackend.of(package.folder, package.manifest)
    if package.manifest.execute.backend == "whisper":
        from onward.execute.whisper import WhisperBackend

        return WhisperBackend.of(package.folder, package.manifest)
    from onward.execute.llama import LlamaBackend

    return LlamaBackend.of(package.folder, package.manifest)
