"""Packages made of other packages, when they are packed: stages are found, types compared, digests kept.

Looks at manifests and locks; runs nothing. What a stage takes and gives is what its manifest lists, and for a package
that decides or talks what that adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onward.errors import ManifestError, ModelNotFound, NotSigned, OnwardError, PackageError, SignatureRefused
from onward.package.digest import Lock, read_lock
from onward.package.manifest import DIALOGUE_FILE, POLICY_FILE
from onward.package.package import Package, open_package
from onward.package.records import Labels, Manifest, Stage
from onward.package.repository import Repository
from onward.package.sections import ManifestProblems, suggestion
from onward.package.trust import read_trusted_lock
from onward.types import Field

TEXT_INPUT = "text"
CONVERSATION = "conversation"
"""The input of a package that people talk with which no model sees: which conversation a message belongs to."""

_DECIDED = (
    Field(name="outcome", datatype="BYTES", description="What the policy decided."),
    Field(name="decision_id", datatype="BYTES", description="The recorded decision; empty where none was recorded."),
)
_TALKED = (
    Field(name="reply", datatype="BYTES", content="text", description="What is said to the customer."),
    Field(name="intent", datatype="BYTES", description="What the message was understood as."),
    Field(name=CONVERSATION, datatype="BYTES", description="The conversation to go on with; empty where none is kept."),
)
_TALKING = Field(name=CONVERSATION, datatype="BYTES", required=False, default="")
_WHOLE = ("image", "audio", "chat")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFields:
    """What a package takes and gives as a stage, by name. `asked` are the outputs it computes only on request."""

    inputs: Mapping[str, Field]
    outputs: Mapping[str, Field]
    asked: frozenset[str]
    decides: bool
    talks: bool


def pin_of(stage: Stage) -> str:
    """How the lock calls the package of a stage."""
    return f"{stage.package}=={stage.version}"


def fields_of(manifest: Manifest, folder: Path) -> StageFields:
    """What the package in `folder` takes and gives as a stage."""
    talks = (folder / DIALOGUE_FILE).is_file()
    decides = (folder / POLICY_FILE).is_file()
    inputs = {field.name: field for field in manifest.inputs}
    # What people talk with says what it says: what its model thinks stays between model and dialogue.
    outputs = {} if talks else {field.name: field for field in manifest.outputs}
    for step in () if talks else manifest.generate:
        if isinstance(step, Labels):
            outputs.setdefault(step.output, Field(name=step.output, datatype="BYTES", content="text"))
            outputs.setdefault("score", Field(name="score", datatype="FP32"))
    for field in (*(_TALKED if talks else ()), *(_DECIDED if decides else ())):
        outputs[field.name] = field
    if talks:
        inputs.setdefault(CONVERSATION, _TALKING)
    asked = frozenset(field.name for field in manifest.outputs if field.on_request and field.name in outputs)
    return StageFields(inputs=inputs, outputs=outputs, asked=asked, decides=decides, talks=talks)


def find_stages(manifest: Manifest, repositories: Iterable[Path]) -> dict[str, Package]:
    """The packages of the stages, verified, by the stages' names; of several repositories the first that has it.

    Raises `PackageError` naming the stage whose package is missing or not what its lock says.
    """
    roots = [Path(root) for root in repositories]
    opened: dict[str, Package] = {}
    for stage in manifest.stages:
        pin = pin_of(stage)
        if pin not in opened:
            folder = locate(stage, roots)
            try:
                opened[pin] = open_package(folder)
            except OnwardError as error:
                raise _unusable(stage, error) from None
            found = opened[pin].id
            if (found.name, found.version) != (stage.package, stage.version):
                message = f'stage "{stage.name}": the folder holds another package'
                raise PackageError(message, where=str(folder), found=f"{found.name} {found.version}")
    return {stage.name: opened[pin_of(stage)] for stage in manifest.stages}


def locate(stage: Stage, roots: Sequence[Path], digest: str = "") -> Path:
    """The folder of a stage's package: of several repositories the first that has it, with `digest` if that is given.

    Where none has it with that digest, the first that has the version at all. Raises `PackageError` naming the stage.
    """
    found: list[Path] = []
    for root in roots:
        try:
            folder = Repository(root).path(stage.package, stage.version)
            if not digest or read_trusted_lock(folder).digest == digest:
                return folder
        except ModelNotFound:
            continue
        except (NotSigned, SignatureRefused):
            pass  # its lock is not even read; where nothing else is found, opening it says so
        except OnwardError as error:
            raise _unusable(stage, error) from None
        found.append(folder)
    if found:
        return found[0]
    expected = f"{stage.package} {stage.version} in {' or '.join(map(str, roots)) or 'a repository'}"
    raise PackageError(f'stage "{stage.name}": there is no such package', expected=expected)


def _unusable(stage: Stage, error: OnwardError) -> PackageError:
    message = f'stage "{stage.name}": {error.message}'
    return PackageError(message, where=error.where, expected=error.expected, found=error.found)


def check_stages(manifest: Manifest, repositories: Iterable[Path]) -> dict[str, str]:
    """Find the stages, compare their types, and give what the lock keeps of them; {} for a package with a model.

    Raises `PackageError` naming the stage, or `ManifestError` naming file, line and key.
    """
    if not manifest.stages:
        return {}
    stages = find_stages(manifest, repositories)
    check_types(manifest, {name: fields_of(stage.manifest, stage.folder) for name, stage in stages.items()})
    return _pins_of(manifest, stages)


def _pins_of(manifest: Manifest, stages: Mapping[str, Package]) -> dict[str, str]:
    return {pin_of(stage): stages[stage.name].id.digest for stage in manifest.stages}


def check_pins(manifest: Manifest, lock: Lock) -> None:
    """The lock pins exactly the packages of the manifest's stages. Raises `PackageError`."""
    wanted = {pin_of(stage) for stage in manifest.stages}
    if wanted != set(lock.stages):
        expected, found = ", ".join(sorted(wanted)) or "none", ", ".join(sorted(lock.stages)) or "none"
        raise PackageError("the lock pins other stages than the manifest has", expected=expected, found=found)


def read_pins(folder: Path, manifest: Manifest) -> Mapping[str, str]:
    """The digests of the stages, by `name==version`, as the package's lock has them. Raises `PackageError`."""
    lock = read_lock(folder)
    check_pins(manifest, lock)
    return lock.stages


def check_pin(stage: Stage, pins: Mapping[str, str], digest: str) -> None:
    """A stage's package is the one that this package was packed with. Raises `PackageError` naming the stage."""
    pinned = pins[pin_of(stage)]
    if pinned != digest:
        message = (
            f'stage "{stage.name}": {stage.package} {stage.version} is not the package that this one was packed with'
        )
        raise PackageError(message, expected=f"digest {pinned[:12]}…", found=f"{digest[:12]}…")


def check_types(manifest: Manifest, fields: Mapping[str, StageFields]) -> None:
    """Compare what is given with what is taken. `fields` are those of each stage, by its name.

    Raises `ManifestError` (several: `ManifestProblems`) naming file, line and key.
    """
    check = _Types(manifest, fields)
    always = {field.name for field in manifest.inputs if field.required or field.default is not None}
    # What is there besides, wherever a stage with a condition runs.
    then: dict[str, set[str]] = {}
    for index, stage in enumerate(manifest.stages):
        path, takes = f"stage[{index}]", fields[stage.name]
        there = always | _implied(stage, manifest.stages[:index], then) if stage.when else always
        for name, sources in stage.inputs.items():
            wanted = takes.inputs.get(name)
            if wanted is None:
                found = f'"{name}"{suggestion(name, takes.inputs)}'
                expected = f"one of {', '.join(takes.inputs)}"
                check.problem(f"{path}.inputs.{name}", f"{stage.package} has no such input", expected, found)
                continue
            is_needed = wanted.required and wanted.default is None
            check.sources(f"{path}.inputs.{name}", sources, wanted, there if is_needed else None)
        for name, field in takes.inputs.items():
            if field.required and field.default is None and name not in stage.inputs:
                expected = f"{name} = an input or an output of an earlier stage"
                check.problem(f"{path}.inputs", f'{stage.package} needs its input "{name}"', expected, "nothing")
        if stage.when:
            check.when(f"{path}.when", stage)
            then[stage.name] = there | {f"{stage.name}.{name}" for name in takes.outputs}
        else:
            always |= {f"{stage.name}.{name}" for name in takes.outputs}
    for field in manifest.outputs:
        check.sources(f"answer.{field.name}", manifest.answer[field.name], field, None)
    check.raise_problems()


def _implied(stage: Stage, earlier: Sequence[Stage], then: Mapping[str, set[str]]) -> set[str]:
    """What is there wherever a stage runs: of stages with the same condition, and of the one that its own looks at."""
    looked_at = stage.when.partition(".")[0]
    alike = {one.name for one in earlier if (one.when, one.values) == (stage.when, stage.values)}
    return set().union(*(then[name] for name in {looked_at, *alike} & then.keys()))


class _Types:
    def __init__(self, manifest: Manifest, fields: Mapping[str, StageFields]) -> None:
        self._manifest = manifest
        self._inputs = {field.name: field for field in manifest.inputs}
        self._fields = fields
        self._problems: list[ManifestError] = []

    def problem(self, key: str, message: str, expected: str, found: str) -> None:
        self._problems.append(ManifestError(message, where=self._manifest.where(key), expected=expected, found=found))

    def raise_problems(self) -> None:
        if len(self._problems) == 1:
            raise self._problems[0]
        if self._problems:
            raise ManifestProblems(self._problems, file=self._manifest.file)

    def source(self, key: str, source: str) -> Field | None:
        """The field of a source; None, and a problem, where the stage's package has no such output."""
        stage, _, output = source.partition(".")
        if not output:
            return self._inputs.get(source)
        outputs = self._fields[stage].outputs
        if output not in outputs:
            found = f'"{source}"{suggestion(output, outputs)}'
            self.problem(key, f'stage "{stage}" has no such output', f"one of {', '.join(outputs)}", found)
        return outputs.get(output)

    def sources(self, key: str, sources: Sequence[str], wanted: Field, always: set[str] | None) -> None:
        """Every source fits; where the input is needed, the last one is there in any case."""
        for source in sources:
            given = self.source(key, source)
            if given is not None and (wrong := _misfit(given, wanted)):
                self.problem(key, f'"{source}" is of another type', wrong, _shown(given))
        if always is not None and sources and not any(source in always for source in sources):
            expected = "at last a source that is always there: no optional input, no stage with `when`"
            self.problem(key, "may be missing when it is needed", expected, ", ".join(sources))

    def when(self, key: str, stage: Stage) -> None:
        """The values are such as the source can have."""
        field = self.source(key, stage.when)
        if field is None:
            return
        kind = {"BYTES": str, "BOOL": bool}.get(field.datatype)
        if not stage.values:
            return
        if field.shape or field.content in _WHOLE:
            self.problem(key, "cannot be compared", "a single text, number or boolean", _shown(field))
            return
        for value in stage.values:
            fits = isinstance(value, kind) if kind else isinstance(value, int | float) and not isinstance(value, bool)
            if not fits:
                expected = f"values of {stage.when}, {field.datatype}"
                self.problem(key.replace(".when", ".values"), "cannot be the source's", expected, repr(value))


def _misfit(given: Field, wanted: Field) -> str:
    """What would fit `wanted`; "" where `given` does. A text fits a chat: it is its only message."""
    if given.datatype != wanted.datatype:
        return _shown(wanted)
    if len(given.shape) != len(wanted.shape):
        return _shown(wanted)
    if any(-1 not in sizes and sizes[0] != sizes[1] for sizes in zip(given.shape, wanted.shape, strict=True)):
        return _shown(wanted)
    if given.content == wanted.content or (wanted.content == "chat" and given.content == "text"):
        return ""
    if given.content in _WHOLE or wanted.content in _WHOLE:
        return _shown(wanted)
    return ""


def _shown(field: Field) -> str:
    kind = f", content {field.content}" if field.content != "value" else ""
    return f"{field.datatype} {list(field.shape)}{kind}"
