"""The story on one page: open a package, then prepare → execute → generate → decide for every input.

Every runner is a thin shell on this: `serve` puts a scheduler between prepare and execute, `batch` reads and writes
files around it, and calling a pipeline does all of it for one input, here and now.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onward.decide.policy import Facts, Policy
from onward.errors import InputError, OnwardError, UnknownOutput
from onward.execute.backend import Batched
from onward.execute.batch import collate, split
from onward.generate.answer import Generation
from onward.package.examples import check_example, read_examples
from onward.package.manifest import DIALOGUE_FILE, POLICY_FILE, GenerateGraph, PrepareGraph
from onward.package.package import Package, open_package
from onward.package.signature import signature_of
from onward.prepare.profile import Profile
from onward.prepare.steps import Preparation
from onward.types import Array, CancelToken, Event, Input, Item, Prepared, Result, Signature, TensorSpec

if TYPE_CHECKING:
    from onward.dialogue.dialogue import Dialogue
    from onward.execute.invariance import InvariantExecution


class Pipeline:
    """A package, opened: call it with an input to get a `Result`. Never changes the package."""

    def __init__(self, package: Package, *, policy: Policy | None = None, decide: bool = True) -> None:
        """`policy` None: the package's own. Without `decide`, answers only: nothing of policies is imported."""
        manifest = package.manifest
        self.package = package
        self.manifest = manifest
        self.policy = policy if policy is not None or not decide else _policy(package)
        self.dialogue = _dialogue(package)
        self.model = _model(package)
        self._after = _graph(package, GenerateGraph)
        before = _graph(package, PrepareGraph)
        self.signature: Signature = signature_of(
            manifest,
            self.model.inputs,
            (self._after or self.model).outputs,
            prepare_inputs=before.inputs if before else None,
            prepare_outputs=before.outputs if before else None,
            model_outputs=self.model.outputs,
            generate_inputs=self._after.inputs if self._after else None,
            folder=package.folder,
        )
        self.prepare = Preparation(manifest, package.folder, graph=_callable(before) if before else None)
        self.generate = Generation(
            manifest, package.folder, tensors=[spec.name for spec in self.signature.tensor_outputs]
        )
        self.default_fetches = self.fetches()
        # Outputs that are as long as the padded inputs: one row a token, say.
        following = getattr(self.model, "following", None) if self._after is None else None
        self.following: frozenset[str] = following(manifest.batching.pad) if following is not None else frozenset()
        try:
            self.invariant = _invariant(self) if manifest.batching.mode == "invariant" else None
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | Path, *, check: bool = True, decide: bool = True) -> Pipeline:
        """Open a package folder or archive: verify its digests, load it and, unless told not to, run its examples."""
        pipeline = cls(open_package(Path(path)), decide=decide)
        try:
            if check:
                pipeline.check_examples()
        except BaseException:
            pipeline.close()
            raise
        return pipeline

    def __call__(self, value: Input, *, outputs: Sequence[str] = (), profile: Profile | None = None) -> Result:
        """Answer one input. `outputs` adds outputs that are computed only on request.

        `profile` holds the entity's features; without one they have their defaults.
        """
        return self.batch([value], outputs=outputs, profiles=[profile])[0]

    def batch(
        self, values: Sequence[Input], *, outputs: Sequence[str] = (), profiles: Sequence[Profile | None] = ()
    ) -> list[Result]:
        """Answer several inputs, in order, run together as far as `max_batch_size` allows.

        `profiles` is one for each input, or empty. Raises `InputError`; its `where` begins with the index of the
        input when there are several.
        """
        fetches = self.fetches(outputs)
        items = [self.item(value) for value in values]
        # What a person leaves out of a profile has its default, as in one that is read.
        default = self.prepare.features.default if self.prepare.features is not None else {}
        profiles = [None if profile is None else {**default, **profile} for profile in profiles or [None] * len(items)]
        prepared = self._prepare_all(items, profiles)
        rows = self.execute(prepared, fetches)
        return [
            self.finish(item, dict(zip(fetches, tensors, strict=True)), outputs, profile)
            for item, tensors, profile in zip(items, rows, profiles, strict=True)
        ]

    def stream(self, value: Input, cancel: CancelToken) -> Iterator[Event]:
        """The answer as events; a batched model has just the last one."""
        result = self(value)
        if not cancel.cancelled:
            yield Event(kind="end", result=result)

    def item(self, value: Input) -> Item:
        """What a person passed, as an item: a bare value stands for the only input field."""
        if isinstance(value, Mapping):
            return value
        fields = self.manifest.inputs
        if len(fields) == 1:
            return {fields[0].name: value}
        raise InputError(
            "this package has several inputs",
            expected=f"a mapping with {', '.join(field.name for field in fields)}",
            found=type(value).__name__,
        )

    def fetches(self, outputs: Sequence[str] = ()) -> tuple[str, ...]:
        """The tensors to compute for the default outputs and those asked for. Raises `UnknownOutput`."""
        names = self.generate.names
        for output in outputs:
            if output not in names:
                raise UnknownOutput(where=output, expected=f"one of {', '.join(names)}", found=repr(output))
        return self.generate.fetches(frozenset(outputs))

    def execute(self, prepared: Sequence[Prepared], fetches: Sequence[str]) -> list[list[Array]]:
        """Run prepared items in batches of at most `max_batch_size` rows; the fetched rows of each, in order."""
        answers: list[list[Array]] = []
        limit = self.manifest.batching.max_batch_size
        for group in _groups(prepared, limit, self._shape_key):
            rows = [item.rows for item in group]
            feeds = self.collate([item.tensors for item in group], rows, bucket=sum(rows))
            outputs = split(self.run(feeds, fetches), rows)
            answers.extend(self._unpadded(tensors, fetches, item) for tensors, item in zip(outputs, group, strict=True))
        return answers

    def _unpadded(self, tensors: list[Array], fetches: Sequence[str], item: Prepared) -> list[Array]:
        """An item's outputs without what was only there because the batch held a longer one."""
        if not self.following or not item.length:
            return tensors
        named = zip(fetches, tensors, strict=True)
        return [tensor[:, : item.length] if name in self.following else tensor for name, tensor in named]

    def collate(
        self, items: Sequence[Mapping[str, Array | list[Any]]], rows: Sequence[int], *, bucket: int
    ) -> dict[str, Array]:
        """The tensors of one batch from its items' tensors."""
        return collate(self.model.inputs, items, rows, pad=self.manifest.batching.pad, bucket=bucket)

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """The model and the generate graph over one batch: one forward pass; in invariant mode as many as it takes."""
        if self.invariant is not None:
            return self.invariant(feeds, fetches)
        return self.forward(feeds, fetches)

    def forward(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """One forward pass over the batch as it is."""
        if self._after is None:
            return self.model.run(feeds, fetches)
        names = [spec.name for spec in self._after.inputs]
        middle = dict(zip(names, self.model.run(feeds, names), strict=True))
        return self._after.run(middle, fetches)

    def finish(
        self, item: Item, tensors: Mapping[str, Array], outputs: Sequence[str] = (), profile: Profile | None = None
    ) -> Result:
        """Generate the answer of one item from its output rows, and decide where there is a policy."""
        answer = self.generate(tensors, frozenset(outputs), item)
        result = Result(answer=answer, tensors=tensors, package=self.package.id)
        if self.policy is not None:
            facts = Facts(answer=answer, input=item, profile=self.profile(item, profile), now_s=time.time())
            result = replace(result, decision=self.policy.decide(facts))
        return result

    def profile(self, item: Item, profile: Profile | None = None) -> Profile:
        """What a decision sees of the entity: the profile as it was read; None: what item and manifest give instead."""
        features = self.prepare.features
        return profile if profile is not None else features.given(item) if features is not None else {}

    def check_examples(self) -> int:
        """Run the golden examples: warm-up and check in one. Raises `GoldenExampleFailed`; returns their number."""
        examples = read_examples(self.package.folder)
        for example in examples:
            asked = [name for name in example.tensors if name in self.generate.names]
            asked += [name for name in example.answer if name in self.generate.names]
            check_example(example, self(example.input, outputs=asked))
        return len(examples)

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that the model runs on, first choice first; empty for Python code."""
        return tuple(getattr(self.model, "providers", ()))

    @property
    def batch_rows(self) -> int:
        """The most rows that run together here: the manifest's, or fewer where more would change answers."""
        return self.manifest.batching.max_batch_size if self.invariant is None else self.invariant.shapes.most_rows

    def blank(self) -> Prepared:
        """One row of zeros, for warming up a package that brings no examples (a model may refuse it)."""
        return Prepared(tensors={spec.name: _zeros(spec) for spec in self.model.inputs})

    def close(self) -> None:
        """Free the backends; idempotent. Also a context manager: `with onward.open(path) as pipeline`."""
        self.model.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prepare_all(self, items: Sequence[Item], profiles: Sequence[Profile | None]) -> list[Prepared]:
        prepared = []
        for index, (item, profile) in enumerate(zip(items, profiles, strict=True)):
            try:
                prepared.append(self.prepare(item, profile))
            except OnwardError as error:
                if len(items) > 1:
                    error.where = f"[{index}] {error.where}".rstrip()
                raise
        return prepared

    def _shape_key(self, item: Prepared) -> tuple[tuple[int, ...], ...]:
        pad = self.manifest.batching.pad
        return tuple(tensor.shape[1:] for name, tensor in item.tensors.items() if name not in pad)


def _groups(prepared: Sequence[Prepared], limit: int, key: Any) -> Iterator[list[Prepared]]:
    """Neighbours of equal shape, up to `limit` rows together."""
    group: list[Prepared] = []
    rows = 0
    for item in prepared:
        if group and (rows + item.rows > limit or key(item) != key(group[0])):
            yield group
            group, rows = [], 0
        group.append(item)
        rows += item.rows
    if group:
        yield group


def _invariant(pipeline: Pipeline) -> InvariantExecution:
    """What runs batches in shapes that do not change a row's bits."""
    from onward.execute.certification import invariant_execution

    def samples() -> list[Mapping[str, Array]]:
        prepared = (pipeline.prepare(example.input) for example in read_examples(pipeline.package.folder))
        return [one.tensors for one in prepared if one.rows == 1]

    return invariant_execution(
        pipeline.manifest, pipeline.package.id.digest, pipeline.providers, pipeline.model.inputs,
        pipeline.signature.tensor_outputs, pipeline.forward, samples,
    )  # fmt: skip


def _policy(package: Package) -> Policy | None:
    """The package's own policy; without a `policy.toml`, nothing of policies is imported."""
    if not (package.folder / POLICY_FILE).is_file():
        return None
    from onward.decide.rules import load_policy

    return load_policy(package.folder, package.manifest)


def _dialogue(package: Package) -> Dialogue | None:
    """The package's dialogue; without a `dialogue.toml`, nothing of dialogues is imported."""
    if not (package.folder / DIALOGUE_FILE).is_file():
        return None
    from onward.dialogue.dialogue import Dialogue

    return Dialogue.open(package.folder, package.manifest)


def _model(package: Package) -> Batched:
    execute = package.manifest.execute
    if execute.backend == "python":
        from onward.execute.python import PythonBackend

        return PythonBackend.of(package.folder, package.manifest)
    from onward.execute.onnx import OnnxBackend

    return OnnxBackend(package.folder / execute.file, threads=execute.threads, providers=execute.providers)


def _graph(package: Package, kind: type[PrepareGraph] | type[GenerateGraph]) -> Batched | None:
    from onward.execute.onnx import OnnxBackend

    for step in (*package.manifest.prepare, *package.manifest.generate):
        if isinstance(step, kind):
            return OnnxBackend(package.folder / step.file, threads=1)
    return None


def _callable(graph: Batched) -> Any:
    names = [spec.name for spec in graph.outputs]
    return lambda tensors: dict(zip(names, graph.run(tensors, names), strict=True))


def _zeros(spec: TensorSpec) -> Array:
    shape = [1 if size == -1 else size for size in spec.shape]
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, spec.dtype)
