"""A package made of other packages: its inputs go through the stages to its answer, in the order of the manifest.

`onward.flow` says which value goes where; here the stages are run, each as the pipeline that it is. Knows nothing of
how packages are opened, and of repositories no more than where they lie.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from onward.decide.policy import Facts, Policy, Profile
from onward.errors import Cancelled, DeadlineExceeded, ExecutionError, InputError, OnwardError
from onward.flow import STAGES_MS, Flow, Values, signature_of_stages, spoken_ms
from onward.package.examples import check_example, read_examples
from onward.package.manifest import Manifest
from onward.package.package import Package, open_package
from onward.package.records import Stage
from onward.package.stages import (
    CONVERSATION,
    check_pin,
    fields_of,
    locate,
    pin_of,
    read_pins,
)
from onward.pipeline import Pipeline
from onward.types import CancelToken, Event, Input, Item, Result

if TYPE_CHECKING:  # what talks is imported only where a stage does
    from onward.dialogue.dialogue import Dialogue

_log = logging.getLogger("onward.stages")
_INDEX = re.compile(r"\[(\d+)\] ?")


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
