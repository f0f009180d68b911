"""The signature: what a package takes and gives, with the manifest checked against the graphs it names.

Takes the graphs' tensors as values; how they are read from a file is not its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from onward.errors import ManifestError
from onward.package.records import (
    Catalogue,
    DecodeImage,
    Entities,
    Labels,
    Manifest,
    Named,
    PrepareGraph,
    Table,
    Tokenize,
)
from onward.package.sections import ManifestProblems, suggestion
from onward.types import Signature, TensorSpec

MAX_LABELS_BYTES = 16 << 20


def signature_of(
    manifest: Manifest,
    tensor_inputs: Sequence[TensorSpec],
    tensor_outputs: Sequence[TensorSpec],
    *,
    prepare_inputs: Sequence[TensorSpec] | None = None,
    prepare_outputs: Sequence[TensorSpec] | None = None,
    model_outputs: Sequence[TensorSpec] | None = None,
    generate_inputs: Sequence[TensorSpec] | None = None,
    folder: Path | None = None,
) -> Signature:
    """Check a manifest against its graphs and return the package's signature.

    `tensor_inputs` are the model's inputs and `tensor_outputs` the outputs of the last graph (`generate` where there
    is one, else the model). The tensors between the graphs are checked where they are given, and the length of
    label files where the package `folder` is. Raises `ManifestError` naming file, line and key.
    """
    check = _Check(manifest)
    made = _made_by_host_steps(manifest)
    has_graph = any(isinstance(step, PrepareGraph) for step in manifest.prepare)
    if has_graph and prepare_inputs is not None:
        check.feeds(prepare_inputs, made, "prepare", "the prepare graph")
    if not has_graph:
        check.feeds(tensor_inputs, made, "input" if not manifest.prepare else "prepare", "the model", batched=True)
    elif prepare_outputs is not None:
        check.feeds(tensor_inputs, {spec.name: spec for spec in prepare_outputs}, "prepare", "the model")
    if generate_inputs is not None and model_outputs is not None:
        check.feeds(generate_inputs, {spec.name: spec for spec in model_outputs}, "generate", "the generate graph")
    check.batch_dimension(tensor_inputs, tensor_outputs)
    check.pad(tensor_inputs)
    check.outputs(tensor_outputs)
    check.generate_steps(tensor_outputs, folder)
    check.raise_problems()
    return Signature(
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        tensor_inputs=tuple(tensor_inputs),
        tensor_outputs=tuple(tensor_outputs),
    )


def read_labels(file: Path) -> tuple[str, ...]:
    """The labels of a file, one a line, in UTF-8."""
    if file.stat().st_size > MAX_LABELS_BYTES:
        raise ManifestError("the file is too large", where=str(file), expected=f"at most {MAX_LABELS_BYTES} bytes")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ManifestError("not valid UTF-8", where=str(file), expected="one label a line, in UTF-8") from None
    return tuple(text.removesuffix("\n").split("\n")) if text else ()


def _made_by_host_steps(manifest: Manifest) -> dict[str, TensorSpec]:
    """The tensors that host steps make of an item, and the inputs but the entity that no step takes; batch first."""
    made: dict[str, TensorSpec] = {}
    taken: set[str] = {manifest.profile.entity} if manifest.profile is not None else set()
    for step in manifest.prepare:
        if isinstance(step, Table):
            taken.update(step.columns)
            made[step.output] = TensorSpec(name=step.output, datatype="FP32", shape=(-1, len(step.columns)))
        elif isinstance(step, Tokenize):
            taken.add(step.input)
            made |= {name: TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in step.outputs}
        elif isinstance(step, DecodeImage):
            taken.add(step.input)
            made[step.output] = TensorSpec(name=step.output, datatype="UINT8", shape=(-1, -1, -1, 3))
    for field in manifest.inputs:
        if field.name not in taken:
            made.setdefault(field.name, TensorSpec(name=field.name, datatype=field.datatype, shape=(-1, *field.shape)))
    return made


class _Check:
    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._problems: list[ManifestError] = []

    def problem(self, key: str, message: str, *, expected: str = "", found: str = "") -> None:
        where = self._manifest.where(key)
        self._problems.append(ManifestError(message, where=where, expected=expected, found=found))

    def raise_problems(self) -> None:
        if len(self._problems) == 1:
            raise self._problems[0]
        if self._problems:
            raise ManifestProblems(self._problems, file=self._manifest.file)

    def feeds(
        self,
        wanted: Sequence[TensorSpec],
        given: Mapping[str, TensorSpec],
        key: str,
        taker: str,
        *,
        batched: bool = False,
    ) -> None:
        """Every tensor that a graph wants is given, in its datatype and a shape that can fit."""
        for spec in wanted:
            have = given.get(spec.name)
            at = self._key_of_input(spec.name, key)
            if have is None:
                found = f"{_listed(given)}{suggestion(spec.name, given)}"
                self.problem(at, f'nothing gives {taker} its tensor "{spec.name}"', expected=_shown(spec), found=found)
            elif have.datatype != spec.datatype:
                expected, found = f'datatype = "{spec.datatype}"', f'"{have.datatype}"'
                self.problem(at, f'{taker} takes "{spec.name}" in another datatype', expected=expected, found=found)
            elif not _feeds(have.shape, spec.shape, batched=batched):
                expected, found = _shown_shape(spec.shape[1:]), _shown_shape(have.shape[1:])
                self.problem(at, f'{taker} takes "{spec.name}" in another shape', expected=expected, found=found)
        if key == "input":
            names = [spec.name for spec in wanted]
            for name in given:
                if name not in names:
                    found = f'"{name}"{suggestion(name, names)}'
                    self.problem(
                        self._key_of_input(name, key), "no graph takes this input", expected=_listed(names), found=found
                    )

    def _key_of_input(self, name: str, key: str) -> str:
        for index, field in enumerate(self._manifest.inputs):
            if field.name == name:
                return f"input[{index}]"
        return key

    def batch_dimension(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """The first dimension of every tensor is the batch, free or large enough."""
        for spec in (*inputs, *outputs):
            kind = "input" if spec in inputs else "output"
            if not spec.shape:
                expected = "a model whose tensors all have the batch as their first dimension"
                self.problem("execute.file", f'{kind} "{spec.name}" has no batch dimension', expected=expected)
            elif spec.shape[0] > 1:
                expected = "a free first dimension; export the model again with a dynamic batch axis"
                self.problem(
                    "execute.file",
                    f'{kind} "{spec.name}" has a fixed batch',
                    expected=expected,
                    found=str(spec.shape[0]),
                )
            elif spec.shape[0] == 1 and self._manifest.batching.max_batch_size != 1:
                self.problem(
                    "batching.max_batch_size",
                    f'{kind} "{spec.name}" takes one row at a time',
                    expected="1, or a model exported with a dynamic batch axis",
                    found=str(self._manifest.batching.max_batch_size),
                )
                return

    def pad(self, inputs: Sequence[TensorSpec]) -> None:
        specs = {spec.name: spec for spec in inputs}
        for name in self._manifest.batching.pad:
            key = f"batching.pad.{name}"
            if name not in specs:
                found = f'"{name}"{suggestion(name, specs)}'
                self.problem(key, "the model has no such tensor", expected=f"one of {_listed(specs)}", found=found)
            elif len(specs[name].shape) < 2 or specs[name].shape[1] != -1:
                expected = "a tensor whose second dimension is free"
                self.problem(key, "cannot be padded", expected=expected, found=_shown(specs[name]))

    def outputs(self, tensors: Sequence[TensorSpec]) -> None:
        specs = {spec.name: spec for spec in tensors}
        host = _made_by_generate(self._manifest)
        for index, field in enumerate(self._manifest.outputs):
            key, spec = f"output[{index}]", specs.get(field.name)
            if spec is None and field.name in host:
                continue
            if spec is None:
                names = [*specs, *host]
                found = f'"{field.name}"{suggestion(field.name, names)}'
                self.problem(f"{key}.name", "the last graph has no such output", expected=_listed(names), found=found)
            elif spec.datatype != field.datatype:
                expected = f'"{spec.datatype}", as the graph gives'
                self.problem(f"{key}.datatype", "wrong datatype", expected=expected, found=f'"{field.datatype}"')
            elif not _fits(field.shape, spec.shape[1:]):
                expected = f"{_shown_shape(spec.shape[1:])}, as the graph gives"
                self.problem(f"{key}.shape", "wrong shape", expected=expected, found=_shown_shape(field.shape))

    def generate_steps(self, tensors: Sequence[TensorSpec], folder: Path | None) -> None:
        specs = {spec.name: spec for spec in tensors}
        for index, step in enumerate(self._manifest.generate):
            key = f"generate[{index}]"
            if isinstance(step, Labels):
                scores = self._vector(f"{key}.scores", step.scores, specs)
                if step.indices:
                    indices = self._vector(f"{key}.indices", step.indices, specs)
                    if indices is not None and not indices.datatype.startswith(("INT", "UINT")):
                        expected, found = "integers", indices.datatype
                        self.problem(f"{key}.indices", "wrong datatype", expected=expected, found=found)
                elif scores is not None and folder is not None:
                    self._label_count(f"{key}.file", scores, folder / step.file)
            elif isinstance(step, Named):
                vector = self._vector(f"{key}.input", step.input, specs)
                if vector is not None and vector.shape[1] not in (-1, len(step.names)):
                    expected, found = f"{vector.shape[1]} names", str(len(step.names))
                    self.problem(f"{key}.names", "not one name for each value", expected=expected, found=found)
            elif isinstance(step, Catalogue):
                self._catalogue(key, step, specs)
            elif isinstance(step, Entities):
                self._entities(key, step, specs, folder)

    def _entities(self, key: str, step: Entities, specs: Mapping[str, TensorSpec], folder: Path | None) -> None:
        spec = specs.get(step.scores)
        if spec is None:
            found = f'"{step.scores}"{suggestion(step.scores, specs)}'
            expected = f"one of {_listed(specs)}"
            self.problem(f"{key}.scores", "the last graph has no such output", expected=expected, found=found)
        elif len(spec.shape) != 3 or not spec.datatype.startswith("FP"):
            expected = "floats of shape [batch, tokens, labels]"
            self.problem(f"{key}.scores", "no scores of tokens", expected=expected, found=_shown(spec))
        elif folder is not None:
            self._label_count(f"{key}.file", spec, folder / step.file)

    def _catalogue(self, key: str, step: Catalogue, specs: Mapping[str, TensorSpec]) -> None:
        for name in ("ids", "scores", "because", "reason"):
            if not getattr(step, name):
                continue
            vector = self._vector(f"{key}.{name}", getattr(step, name), specs)
            if vector is not None and name != "scores" and not vector.datatype.startswith(("INT", "UINT")):
                self.problem(f"{key}.{name}", "wrong datatype", expected="integers", found=vector.datatype)

    def _vector(self, key: str, name: str, specs: Mapping[str, TensorSpec]) -> TensorSpec | None:
        spec = specs.get(name)
        if spec is None:
            found = f'"{name}"{suggestion(name, specs)}'
            self.problem(key, "the last graph has no such output", expected=f"one of {_listed(specs)}", found=found)
        elif len(spec.shape) != 2:
            self.problem(key, "not a vector for each item", expected="shape [batch, n]", found=_shown(spec))
            return None
        return spec

    def _label_count(self, key: str, scores: TensorSpec, file: Path) -> None:
        if file.is_file() and scores.shape[-1] != -1:
            count = len(read_labels(file))
            if count != scores.shape[-1]:
                expected = f"{scores.shape[-1]} labels, one a line, as many as scores"
                self.problem(key, "not one label for each score", expected=expected, found=f"{count} in {file.name}")


def _made_by_generate(manifest: Manifest) -> list[str]:
    labels = [step for step in manifest.generate if isinstance(step, Labels)]
    catalogues = [step.output for step in manifest.generate if isinstance(step, Catalogue | Entities)]
    return [name for step in labels for name in (step.output, "score", "labels")] + catalogues


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    if len(shape) != len(wanted):
        return False
    return all(-1 in sizes or sizes[0] == sizes[1] for sizes in zip(shape, wanted, strict=True))


def _feeds(have: Sequence[int], wanted: Sequence[int], *, batched: bool) -> bool:
    """Whether a made tensor fits a graph's input. A prepare graph may take an item without the row dimension."""
    if batched:
        return _fits(have[1:], wanted[1:])
    return _fits(have, wanted) or _fits(have[1:], wanted)


def _shown(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _shown_shape(shape: Iterable[int]) -> str:
    return f"shape = {list(shape)}"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:12]) + (f" … ({len(listed)} in all)" if len(listed) > 12 else "") or "nothing"
