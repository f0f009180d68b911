"""A package made of other packages: its inputs go through the stages to its answer, in the order of the manifest.

`Flow` says which value goes where, and is what every runner follows; `StagedPipeline` runs the stages here, each as the
pipeline that it is. Knows nothing of how packages are opened, and of repositories no more than where they lie.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from onward.decide.policy import Facts, Policy, Profile
from onward.errors import Cancelled, DeadlineExceeded, ExecutionError, InputError, OnwardError, UnknownOutput
from onward.package.examples import check_example, read_examples
from onward.package.manifest import Manifest
from onward.package.package import Package, open_package
from onward.package.records import Stage
from onward.package.stages import (
    CONVERSATION,
    StageFields,
    check_pin,
    check_types,
    fields_of,
    locate,
    pin_of,
    read_pins,
)
from onward.pipeline import Pipeline
from onward.prepare.fields import ItemNames, describe, field_array, shown, value_of
from onward.types import Blob, CancelToken, Event, Field, Input, Item, Result, Signature

if TYPE_CHECKING:  # what talks is imported only where a stage does
    from onward.dialogue.dialogue import Dialogue

_log = logging.getLogger("onward.stages")
STAGES_MS = "stages_ms"
"""The output, on request, that tells how long each stage took, in milliseconds, by its name."""
_INDEX = re.compile(r"\[(\d+)\] ?")
Values: TypeAlias = dict[str, Any]
"""What is known of one item: its inputs by name, and outputs as `STAGE.OUTPUT`. What is missing is not in it."""


class AnyStage(Protocol):
    """What a stage's pipeline has: `Pipeline`, `StreamingPipeline` or `StagedPipeline`."""

    package: Package
    manifest: Manifest

    @property
    def policy(self) -> Policy | None:
        """What decides, if anything."""
        ...

    @property
    def dialogue(self) -> Dialogue | None:
        """What talks, if anything."""
        ...

    def batch(self, values: Sequence[Input], *, outputs: Sequence[str] = ()) -> list[Result]:
        """Answer several inputs."""
        ...

    def stream(self, value: Input, cancel: CancelToken) -> Iterator[Event]:
        """The answer as events."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Flow:
    """How values go from a package's inputs through its stages to its answer. Pure; `fields` are those of each stage.

    Raises `ManifestError` where what a stage gives is not what is taken from it.
    """

    def __init__(self, manifest: Manifest, fields: Mapping[str, StageFields]) -> None:
        check_types(manifest, fields)
        self.stages = manifest.stages
        self._inputs = manifest.inputs
        self._outputs = manifest.outputs
        self._answer = manifest.answer
        self._fields = fields
        self._names = ItemNames(manifest.inputs)
        taken = {source for stage in manifest.stages for found in stage.inputs.values() for source in found}
        taken |= {stage.when for stage in manifest.stages} | {
            one for found in manifest.answer.values() for one in found
        }
        self.asked: Mapping[str, tuple[str, ...]] = {
            name: tuple(output for output in stage.asked if f"{name}.{output}" in taken)
            for name, stage in fields.items()
        }
        """The outputs to ask of each stage that it computes only on request."""

    def begin(self, item: Item) -> Values:
        """The values that an item brings. Raises `InputError`."""
        self._names.check(item)
        values: Values = {}
        for field in self._inputs:
            value = value_of(field, item)
            if value is not None:
                values[field.name] = _checked(field, value)
        return values

    def runs(self, stage: Stage, values: Values) -> bool:
        """Whether a stage is to run, by what is known before it."""
        if not stage.when:
            return True
        value = values.get(stage.when)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in stage.values)

    def feed(self, stage: Stage, values: Values) -> dict[str, Any]:
        """The item for a stage."""
        item: dict[str, Any] = {}
        for name, sources in stage.inputs.items():
            source = next((source for source in sources if source in values), None)
            if source is None:
                continue
            value, field = values[source], self._fields[stage.name].inputs[name]
            if field.default is not None and isinstance(value, str | bool | int | float) and value == field.default:
                continue  # as good as left out: a name that is empty is no name
            item[name] = _given(value, field)
        return item

    def take(self, stage: Stage, values: Values, answer: Mapping[str, Any]) -> None:
        """Note what a stage gave."""
        for name in self._fields[stage.name].outputs:
            if answer.get(name) is not None:
                values[f"{stage.name}.{name}"] = answer[name]

    def check_outputs(self, outputs: Sequence[str]) -> None:
        """Raise `UnknownOutput` for a name that no output has."""
        names = [*(field.name for field in self._outputs), STAGES_MS]
        for output in outputs:
            if output not in names:
                raise UnknownOutput(where=output, expected=f"one of {', '.join(names)}", found=repr(output))

    def answer(self, values: Values, outputs: Sequence[str], stages_ms: Mapping[str, float]) -> dict[str, Any]:
        """The answer: outputs of stages that did not run are not in it."""
        answer: dict[str, Any] = {}
        for field in self._outputs:
            if field.on_request and field.name not in outputs:
                continue
            source = next((source for source in self._answer[field.name] if source in values), None)
            if source is not None:
                answer[field.name] = values[source]
        if STAGES_MS in outputs:
            answer.setdefault(STAGES_MS, {name: round(duration, 3) for name, duration in stages_ms.items()})
        return answer

    def told(self, stage: Stage, error: OnwardError) -> OnwardError:
        """A stage's error, as the caller of the whole is told it: with the input that it is about, or the stage."""
        sources = stage.inputs.get(error.where, ())
        direct = [source for source in sources if "." not in source]
        error.where = direct[0] if direct else f"{stage.name}.{error.where}".rstrip(".")
        return error


class StagedPipeline:
    """A package of stages, opened: call it with an input to get a `Result`. A stage that talks, or decides, does so
    here without a store: it says what it would, remembers nothing and acts on nothing."""

    policy: Policy | None = None
    dialogue: Dialogue | None = None

    def __init__(self, package: Package, stages: Mapping[str, AnyStage]) -> None:
        """`stages` are the opened pipelines by the stages' names. Raises `PackageError` for one that is not pinned."""
        self.package = package
        self.manifest = package.manifest
        self.stages = stages
        pins = read_pins(package.folder, self.manifest)
        for stage in self.manifest.stages:
            check_pin(stage, pins, stages[stage.name].package.id.digest)
        fields = {name: fields_of(stage.manifest, stage.package.folder) for name, stage in stages.items()}
        self.flow = Flow(self.manifest, fields)
        self.signature = signature_of_stages(self.manifest)

    @classmethod
    def open(
        cls,
        path: str | Path,
        open_stage: Callable[[Path], AnyStage],
        *,
        repositories: Sequence[Path] = (),
        check: bool = True,
    ) -> StagedPipeline:
        """Open a package folder or archive and its stages' packages, found in the repository that it lies in or else
        in `repositories`. With `check`, run its golden examples.

        Raises `PackageError` naming the stage whose package is missing, replaced or cannot be opened.
        """
        package = open_package(Path(path))
        manifest = package.manifest
        pins = read_pins(package.folder, manifest)
        roots = [Path(path).resolve().parent.parent, *repositories]
        opened: dict[str, AnyStage] = {}
        try:
            for stage in manifest.stages:
                pin = pin_of(stage)
                if pin not in opened:
                    opened[pin] = _opened(stage, locate(stage, roots, pins[pin]), open_stage)
            pipeline = cls(package, {stage.name: opened[pin_of(stage)] for stage in manifest.stages})
            if check:
                pipeline.check_examples()
        except BaseException:
            for one in opened.values():
                one.close()
            raise
        return pipeline

    def __call__(
        self,
        value: Input,
        *,
        outputs: Sequence[str] = (),
        profile: Profile | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Answer one input. A package of stages has no profile of its own: `profile` is not looked at."""
        return self.batch([value], outputs=outputs, timeout_s=timeout_s)[0]

    def batch(
        self, values: Sequence[Input], *, outputs: Sequence[str] = (), timeout_s: float | None = None
    ) -> list[Result]:
        """Answer several inputs, in order: each stage takes all of them together.

        `timeout_s` is for all of it. Raises `InputError`, its `where` beginning with the index of the input when there
        are several, and `DeadlineExceeded`.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self.flow.check_outputs(outputs)
        known = [self._begin(value, index, len(values)) for index, value in enumerate(values)]
        stages_ms: dict[str, float] = {}
        for stage in self.flow.stages:
            started_s = time.perf_counter()
            running = [index for index, one in enumerate(known) if self.flow.runs(stage, one)]
            if not running:
                continue
            _check_deadline(deadline_s)
            try:
                answers = self._ask(stage, [self.flow.feed(stage, known[index]) for index in running], deadline_s)
            except OnwardError as error:
                raise self._told(stage, error, running, len(values)) from None
            for index, answer in zip(running, answers, strict=True):
                self.flow.take(stage, known[index], answer)
            stages_ms[stage.name] = (time.perf_counter() - started_s) * 1e3
        _log.debug("%s: %s", self.package.id.name, spoken_ms(stages_ms))
        answers = [self.flow.answer(one, outputs, stages_ms) for one in known]
        return [Result(answer=answer, tensors={}, package=self.package.id) for answer in answers]

    def stream(self, value: Input, cancel: CancelToken) -> Iterator[Event]:
        """The stages' events as they come, each with its `stage` as an attribute, and the whole answer at the end.

        The end's `stages_ms` are the stages' durations. After `cancel` there is no end.
        """
        known = self.flow.begin(self.item(value))
        stages_ms: dict[str, float] = {}
        for stage in self.flow.stages:
            if not self.flow.runs(stage, known):
                continue
            started_s = time.perf_counter()
            pipeline, item = self.stages[stage.name], self.flow.feed(stage, known)
            try:
                if isinstance(pipeline, Pipeline):
                    answer = None if cancel.cancelled else self._ask(stage, [item], None)[0]
                else:
                    answer = None
                    for event in pipeline.stream(item, cancel):
                        if event.kind == "end":
                            answer = None if event.result is None else event.result.answer
                        else:
                            yield replace(event, attributes={**event.attributes, "stage": stage.name})
            except OnwardError as error:
                raise self.flow.told(stage, error) from None
            if cancel.cancelled or answer is None:
                return
            self.flow.take(stage, known, answer)
            stages_ms[stage.name] = (time.perf_counter() - started_s) * 1e3
        result = Result(answer=self.flow.answer(known, (), stages_ms), tensors={}, package=self.package.id)
        yield Event(kind="end", attributes={STAGES_MS: stages_ms}, result=result)

    def item(self, value: Input) -> Item:
        """What a person passed, as an item: a bare value stands for the only input that is needed."""
        if isinstance(value, Mapping):
            return value
        fields = self.manifest.inputs
        needed = [field for field in fields if field.required and field.default is None]
        if len(needed) == 1:
            return {needed[0].name: value}
        expected = f"a mapping with {', '.join(field.name for field in fields)}"
        raise InputError("this package has several inputs", expected=expected, found=type(value).__name__)

    def check_examples(self) -> int:
        """Run the golden examples. Raises `GoldenExampleFailed`; returns their number."""
        examples = read_examples(self.package.folder)
        names = [field.name for field in self.manifest.outputs]
        for example in examples:
            check_example(example, self(example.input, outputs=[name for name in example.answer if name in names]))
        return len(examples)

    def close(self) -> None:
        """Close the stages; idempotent. Also a context manager."""
        for stage in self.stages.values():
            stage.close()

    def __enter__(self) -> StagedPipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, value: Input, index: int, count: int) -> Values:
        try:
            return self.flow.begin(self.item(value))
        except OnwardError as error:
            if count > 1:
                error.where = f"[{index}] {error.where}".rstrip()
            raise

    def _ask(self, stage: Stage, items: Sequence[Item], deadline_s: float | None) -> list[Mapping[str, Any]]:
        """A stage's answers. A stage that streams is ended at the deadline, another one finishes first."""
        pipeline = self.stages[stage.name]
        if pipeline.dialogue is not None:
            return [one_message(pipeline, item) for item in items]
        if deadline_s is None or isinstance(pipeline, Pipeline):
            results = pipeline.batch(items, outputs=self.flow.asked[stage.name])
        else:
            results = [_streamed(pipeline, item, deadline_s) for item in items]
        return [stage_answer(result) for result in results]

    def _told(self, stage: Stage, error: OnwardError, running: Sequence[int], count: int) -> OnwardError:
        """The error with its place among the values of the whole."""
        found = _INDEX.match(error.where)
        if found:
            error.where = error.where[found.end() :]
        index = running[int(found[1])] if found else running[0]
        error = self.flow.told(stage, error)
        if count > 1 and (found or len(running) == 1):
            error.where = f"[{index}] {error.where}"
        return error


def signature_of_stages(manifest: Manifest) -> Signature:
    """What a package of stages takes and gives; it has no tensors of its own."""
    return Signature(inputs=manifest.inputs, outputs=manifest.outputs, tensor_inputs=(), tensor_outputs=())


def stage_answer(result: Result) -> dict[str, Any]:
    """What a stage gives to the next: its answer, with the outcome where a policy decided (and recorded nothing)."""
    answer = dict(result.answer)
    if result.decision is not None:
        answer |= {"outcome": result.decision.outcome, "decision_id": ""}
    return answer


def one_message(pipeline: AnyStage, item: Item) -> dict[str, Any]:
    """What a package that talks says to one message, without a store: nothing is kept, and no action is taken.

    Raises `InputError` for a message that belongs to a conversation.
    """
    from onward.dialogue.records import ActionStatus, State

    dialogue, policy = pipeline.dialogue, pipeline.policy
    assert dialogue is not None and policy is not None and isinstance(pipeline, Pipeline)
    item = dict(item)
    if item.pop(CONVERSATION, ""):
        raise InputError(where=CONVERSATION, expected="none: conversations go on where they are kept, on a server")
    text = dialogue.bounded(str(item.get("text", "")))
    answer = dict(pipeline({**item, "text": text}).answer)
    profile, now_s = pipeline.profile(item), time.time()
    understood = dialogue.understand(State(), text, answer, profile, now_s)
    entity = pipeline.manifest.profile.entity if pipeline.manifest.profile else "customer"
    given = {"text": text, "customer": item.get(entity, ""), **understood.facts}
    decision = policy.decide(Facts(answer=answer, input=given, profile=profile, now_s=now_s))
    # What nobody will do is said to be refused, never to be done.
    actions = [ActionStatus(action_id="", name=call.name, state="denied") for call in decision.actions]
    reply = dialogue.reply(understood, decision, actions, profile)
    said = {"reply": reply.text, "intent": reply.intent, CONVERSATION: ""}
    return said | {"outcome": decision.outcome, "decision_id": ""}


def spoken_ms(stages_ms: Mapping[str, float]) -> str:
    """Durations for a log: `hear 120.1 ms, understand 3.4 ms`."""
    return ", ".join(f"{name} {duration:.1f} ms" for name, duration in stages_ms.items()) or "no stage ran"


def _opened(stage: Stage, folder: Path, open_stage: Callable[[Path], AnyStage]) -> AnyStage:
    try:
        return open_stage(folder)
    except OnwardError as error:
        error.message = f'stage "{stage.name}": {error.message}'
        raise


def _streamed(pipeline: AnyStage, item: Item, deadline_s: float) -> Result:
    cancel = CancelToken()
    for event in pipeline.stream(item, cancel):
        if event.kind == "end" and event.result is not None:
            return event.result
        if time.monotonic() >= deadline_s:
            cancel.cancel()
            raise DeadlineExceeded
    raise ExecutionError("the stream ended without an answer") if not cancel.cancelled else Cancelled()


def _check_deadline(deadline_s: float | None) -> None:
    if deadline_s is not None and time.monotonic() >= deadline_s:
        raise DeadlineExceeded


def _checked(field: Field, value: Any) -> Any:
    """A value that fits the field. Raises `InputError`."""
    if isinstance(value, Blob):
        value = value.data
    if field.content in ("image", "audio"):
        if not isinstance(value, bytes | bytearray):
            raise InputError(where=field.name, expected=describe(field), found=shown(value))
        return bytes(value)
    if field.content != "chat":  # what takes a chat looks at it
        field_array(field, value)
        if field.categories and value not in field.categories:
            raise InputError(where=field.name, expected=describe(field), found=shown(value))
    return value


def _given(value: Any, field: Field) -> Any:
    """A value in the form in which a stage takes it: sound and pictures as bytes, a text for a chat as its message."""
    if isinstance(value, Blob):
        return value.data
    if field.content == "chat" and isinstance(value, str):
        return [{"role": "user", "content": value}]
    return value
