"""An ensemble as a package of stages, for models whose graphs cannot be joined.

Each step is the package that its model became. Such a package answers by its fields; it has no tensors of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onward.package.assembly import assemble
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.triton_config import ConfigTensor, EnsembleStep, TritonConfig
from onward.package.manifest import MANIFEST_FILE, dump_manifest
from onward.package.records import Manifest, PackageInfo, Stage
from onward.types import Field


def assemble_stages(
    folder: Path,
    info: PackageInfo,
    config: TritonConfig,
    packages: Mapping[tuple[str, int], tuple[str, str]],
    *,
    repository: Path,
) -> None:
    """Write the package of an ensemble into `folder`: its steps as stages.

    `packages` are names and versions of packages by the models and versions of the steps, which stand in order;
    `repository` is where the packages are. Raises `UnsupportedModel` where a name cannot be a source, `ManifestError`
    where types do not fit.
    """
    folder.mkdir(parents=True)
    manifest = _manifest(info, config, packages)
    (folder / MANIFEST_FILE).write_text(dump_manifest(manifest), encoding="utf-8", newline="\n")
    assemble(folder, parity={"compared": False}, repositories=[repository])


def _manifest(info: PackageInfo, config: TritonConfig, packages: Mapping[tuple[str, int], tuple[str, str]]) -> Manifest:
    for tensor in config.inputs:
        if "." in tensor.name:
            raise UnsupportedModel(f'"{tensor.name}": an input of a package of stages has no dots in its name')
    sources = {tensor.name: tensor.name for tensor in config.inputs}
    stages: list[Stage] = []
    for step in config.steps:
        package, version = packages[step.model, step.version]
        name = _name(package, {stage.name for stage in stages} | set(sources))
        inputs = {own: (sources[shared],) for own, shared in step.inputs.items()}
        stages.append(Stage(name=name, package=package, version=version, inputs=inputs))
        sources |= {shared: f"{name}.{own}" for own, shared in step.outputs.items()}
    return Manifest(
        package=info,
        inputs=_fields(config.inputs, config),
        outputs=_fields(config.outputs, config),
        stages=tuple(stages),
        answer={tensor.name: (sources[tensor.name],) for tensor in config.outputs},
    )


def steps_in_order(steps: Sequence[EnsembleStep], names: Sequence[str]) -> tuple[EnsembleStep, ...]:
    """The steps in the order of `names`, which are those of their models as they run."""
    left, ordered = list(steps), []
    for name in names:
        step = next(step for step in left if step.model == name)
        left.remove(step)
        ordered.append(step)
    return tuple(ordered)


def _fields(tensors: Sequence[ConfigTensor], config: TritonConfig) -> tuple[Field, ...]:
    front = 0 if config.max_batch_size else 1  # then the dims are those of the whole tensor
    return tuple(Field(name=tensor.name, datatype=tensor.datatype, shape=tensor.dims[front:]) for tensor in tensors)


def _name(package: str, taken: set[str]) -> str:
    name, count = package, 1
    while name in taken:
        count += 1
        name = f"{package}-{count}"
    return name
