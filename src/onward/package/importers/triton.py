"""Imports a Triton model repository: each ONNX model and ensemble becomes a package with the same tensors.

The models that an ensemble is made of become packages of their own, as Triton serves them, and their graphs are joined
in the ensemble's package, so that V2 clients find its tensors. What is refused does not keep the others from moving.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onward.errors import OnwardError, PackageError, ParityError, UsageError
from onward.package.digest import read_lock
from onward.package.graphcheck import check_graph
from onward.package.graphtrial import try_graphs
from onward.package.importers.clientshapes import Ends, answers_of_original, with_client_shapes
from onward.package.importers.draft import Draft
from onward.package.importers.ensemble import Part, in_order, joined, run_in_turn
from onward.package.importers.extra import need
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.moved import Moved, package_name
from onward.package.importers.onnx import draft_of_onnx
from onward.package.importers.triton_config import (
    CONFIG_FILE,
    MODEL_FILE,
    ConfigTensor,
    EnsembleStep,
    TritonConfig,
    read_config,
)
from onward.package.importers.triton_stages import assemble_stages, steps_in_order
from onward.package.pack import RunPackage, pack_draft
from onward.package.records import Execute, Labels, PackageInfo
from onward.package.repository import Repository
from onward.package.signature import MAX_LABELS_BYTES
from onward.package.tensors import GraphSession
from onward.types import Field, TensorSpec

LABELS_FILE = "labels.txt"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_MADE_BY_LABELS = frozenset({"label", "score", "labels"})


@dataclass(frozen=True, kw_only=True)
class _Model:
    """One model of the repository: its folder and what its configuration says."""

    folder: Path
    config: TritonConfig
    name: str
    versions: tuple[str, ...]


@dataclass(kw_only=True)
class _Move:
    """What one run works with; `moved` are the folders of models' graphs as clients see them, by name and version."""

    root: Path
    repository: Repository
    workplace: Path
    licence: str
    run_package: RunPackage | None
    graphs: dict[tuple[str, str], Path] = field(default_factory=dict)


def import_triton(
    source: Path,
    out: Path,
    *,
    models: Sequence[str] = (),
    licence: str = "",
    run_package: RunPackage | None = None,
) -> Iterator[Moved]:
    """Import the repository `source`, or one model's folder, into the repository of packages `out`, model by model.

    `models` names those to import, by default all; an ensemble brings its models. Each comes as `Moved`: with what did
    not carry over in `notes`, or with the reason in `refused`. What `out` has already, with the same contents, stays.
    Raises `UsageError` where `source` is no such repository.
    """
    root, folders = _folders(source)
    unknown = [name for name in models if name not in [folder.name for folder in folders]]
    if unknown:
        expected = f"one of {', '.join(folder.name for folder in folders)}"
        raise UsageError("no such model", where=str(source), expected=expected, found=", ".join(unknown))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=out) as workplace:
        move = _Move(root=root, repository=Repository(out), workplace=Path(workplace), licence=licence,
                     run_package=run_package)  # fmt: skip
        found: list[_Model] = []
        for folder in folders:
            try:
                found.append(_read(folder, {model.name: model.folder.name for model in found}))
            except OnwardError as error:
                if not models or folder.name in models:
                    yield Moved.refusal(folder.name, error)
        steps = {step.model for model in found if model.folder.name in models for step in model.config.steps}
        for model in sorted(found, key=lambda model: bool(model.config.steps)):  # ensembles after their models
            if models and model.folder.name not in {*models, *steps}:
                continue
            for version in model.versions:
                try:
                    if model.config.steps:
                        yield _ensemble(model, version, found, move)
                    else:
                        yield _install(model, *_plain(model, version, move), move)
                except OnwardError as error:
                    yield Moved.refusal(model.folder.name, error, version=version)


def _folders(source: Path) -> tuple[Path, list[Path]]:
    """The repository's root and the folders of its models."""
    if not source.is_dir():
        raise UsageError("no such folder", where=str(source), expected="a Triton model repository")
    if (source / CONFIG_FILE).is_file() or _numbered(source):
        root, folders = source.resolve().parent, [source.resolve()]
    else:
        root = source
        folders = sorted(folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        folders = [folder for folder in folders if (folder / CONFIG_FILE).is_file() or _numbered(folder)]
    if not folders:
        expected = f"folders of models, each with {CONFIG_FILE} or numbered versions"
        raise UsageError("not a Triton model repository", where=str(source), expected=expected)
    return root, folders


def _numbered(folder: Path) -> list[str]:
    """The version folders of a model, oldest first."""
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and _VERSION.fullmatch(entry.name)]
    return sorted(names, key=int)


def _read(folder: Path, taken: dict[str, str]) -> _Model:
    """One model. Raises `PackageError` where its configuration cannot be read, or another model has its name."""
    config = read_config(folder)
    there = _numbered(folder) or (["1"] if config.steps else [])
    wanted = list(map(str, config.policy.specific))
    missing = [version for version in wanted if version not in there]
    if missing or not there:
        raise PackageError("a version is not there", where=str(folder), expected=", ".join(missing) or "a folder 1",
                           found=", ".join(there) or "no numbered folder")  # fmt: skip
    name = package_name(folder.name)
    if name in taken:
        raise PackageError(f'its package would be called "{name}", as that of "{taken[name]}" is', where=str(folder),
                           expected="names that differ in more than capitals and signs")  # fmt: skip
    if name != folder.name:
        note = f'the model is now called "{name}": clients have to ask for that'
        config = replace(config, notes=(note, *config.notes))
    return _Model(folder=folder, config=config, name=name, versions=tuple(wanted or there[-config.policy.latest :]))


def _plain(model: _Model, version: str, move: _Move) -> tuple[Draft, list[str]]:
    """The draft of an ONNX model, as clients see it."""
    config = model.config
    file = _model_file(model.folder / version, config, move.root)
    info = PackageInfo(name=model.name, version=version, licence=move.licence)
    try_graphs([file], file.parent)  # before the runtime here sees it
    original, session = file, GraphSession(file)
    inputs = _ends(config.inputs, session.inputs, "input", config)
    outputs = _ends(config.outputs, session.outputs, "output", config)
    file = _as_clients_see_it(file, inputs, outputs, move.workplace / f"{model.name}-{version}", config.name)
    move.graphs[model.folder.name, version] = file
    try:
        draft = draft_of_onnx(file, info, is_tried=True)
    except ParityError as error:
        if config.max_batch_size:
            raise
        expected = "max_batch_size above 0 and a model whose first dimension is the batch"
        raise UnsupportedModel(f"max_batch_size is 0, and {error.message}", where=str(model.folder),
                               expected=expected) from None  # fmt: skip
    if draft.feeds and file != original:
        draft = replace(draft, reference=answers_of_original(session, draft.feeds, inputs, outputs))
    return _settled(draft, model, move)


def _settled(draft: Draft, model: _Model, move: _Move) -> tuple[Draft, list[str]]:
    """The draft with what the configuration says of batches, instances and labels."""
    config, manifest, notes = model.config, draft.manifest, list(model.config.notes)
    batching = manifest.batching
    if batching.max_batch_size == 1 < config.max_batch_size:
        notes.append("max_batch_size: the model's batch is fixed to one row, so it is 1")
    elif config.max_batch_size:
        batching = replace(batching, max_batch_size=config.max_batch_size)
    elif config.is_written and batching.max_batch_size > 1:
        notes.append("max_batch_size is 0: the first dimension is taken for the batch, since rows answer alike alone "
                     f"and together; up to {batching.max_batch_size} run together")  # fmt: skip
    batching = replace(batching, max_queue_delay_us=config.max_queue_delay_us)
    execute = Execute(file=manifest.execute.file, instances=config.instances, threads=config.threads,
                      providers=("cuda", "cpu") if config.on_gpu else ("cpu",))  # fmt: skip
    manifest = replace(manifest, execute=execute, batching=batching)
    if not draft.items:
        notes.append("no golden examples: the model took none of the random inputs that were tried; "
                     "onward verify cannot run it before you add some (docs/how-to/golden-examples.md)")  # fmt: skip
    files = dict(draft.files)
    labels = _labels(model, manifest.outputs, move.root, notes)
    if labels is not None:
        step, files[LABELS_FILE] = labels
        manifest = replace(manifest, generate=(step,))
    return replace(draft, manifest=manifest, files=files), notes


def _model_file(folder: Path, config: TritonConfig, root: Path) -> Path:
    """The model's file in a version's folder; a folder of that name holds it with its external data."""
    file = folder / config.file
    if file.is_dir():
        file = file / MODEL_FILE
    if not file.is_file():
        raise PackageError("no such file", where=str(file), expected=f"the model, {config.file}")
    return _inside(file, root)


def _inside(file: Path, root: Path) -> Path:
    """The file behind all links. Raises `PackageError` where that is not in the repository."""
    found = file.resolve()
    if not found.is_relative_to(root.resolve()):
        raise PackageError("a link leads out of the repository", where=str(file), expected="a file of the repository")
    return found


def _as_clients_see_it(
    file: Path, inputs: Mapping[str, Ends], outputs: Mapping[str, Ends], place: Path, where: str
) -> Path:
    """The model with the ends that its configuration shows: the file itself, or another one in `place`."""
    changed = with_client_shapes(file, inputs, outputs, where=where)
    if changed is None:
        return file
    external = check_graph(file, file.parent)
    place.mkdir(parents=True)
    for path in external:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.parent / path, place / path)
        except OSError:  # another file system
            shutil.copyfile(file.parent / path, place / path)
    (place / MODEL_FILE).write_bytes(changed)
    return place / MODEL_FILE


def _ends(
    tensors: Sequence[ConfigTensor], specs: Sequence[TensorSpec], kind: str, config: TritonConfig
) -> dict[str, Ends]:
    """How clients see each tensor; without a word about any, as the model has them."""
    known = {spec.name: spec for spec in specs}
    if not tensors:
        return {spec.name: Ends(shape=spec.shape) for spec in specs}
    missing = [spec.name for spec in specs if kind == "input" and spec.name not in {each.name for each in tensors}]
    if missing:
        raise PackageError("the configuration leaves out inputs of the model", where=config.name,
                           found=", ".join(missing))  # fmt: skip
    ends: dict[str, Ends] = {}
    for tensor in tensors:
        spec = known.get(tensor.name)
        if spec is None:
            raise PackageError(f'the model has no {kind} "{tensor.name}"', where=config.name,
                               expected=f"one of {', '.join(known)}")  # fmt: skip
        if spec.datatype != tensor.datatype:
            raise PackageError(f'{kind} "{tensor.name}" has another datatype', where=config.name,
                               expected=f"{spec.datatype}, as the model", found=tensor.datatype)  # fmt: skip
        given = tensor.reshape if tensor.reshape is not None else tensor.dims
        # Without max_batch_size the dims are those of the whole tensor, unless Triton would have completed it.
        front = (spec.shape[0],) if spec.shape and len(given) == len(spec.shape) - 1 else ()
        if config.max_batch_size and not front:
            raise PackageError(f'{kind} "{tensor.name}" is not the model\'s with a batch in front', where=config.name,
                               expected=str(list(spec.shape[1:])), found=str(list(given)))  # fmt: skip
        reshape = (*front, *tensor.reshape) if tensor.reshape is not None else None
        ends[tensor.name] = Ends(shape=(*front, *tensor.dims), model_shape=reshape)
    return ends


def _labels(model: _Model, outputs: Sequence[Field], root: Path, notes: list[str]) -> tuple[Labels, bytes] | None:
    """The step that names the best scores, from the first label file that fits its output."""
    chosen: tuple[Labels, bytes] | None = None
    shapes = {output.name: output for output in outputs}
    for tensor in model.config.outputs:
        if not tensor.label_file:
            continue
        output = shapes[tensor.name]
        file = _inside(model.folder / tensor.label_file, root)
        try:
            if file.stat().st_size > MAX_LABELS_BYTES:
                raise PackageError(
                    "the file is too long", where=str(file), expected=f"at most {MAX_LABELS_BYTES} bytes"
                )
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PackageError(f"cannot be read: {error}", where=str(file), expected="labels in UTF-8") from None
        lines = text.replace("\r\n", "\n").strip("\n").split("\n")
        if len(output.shape) != 1 or output.shape[0] not in (-1, len(lines)) or not output.datatype.startswith("FP"):
            found = f"{len(lines)} labels for {output.datatype} {list(output.shape)}"
            notes.append(f"label_filename of {tensor.name}: not one label for each score ({found}); left out")
        elif chosen is not None or _MADE_BY_LABELS.intersection(shapes):
            notes.append(f"label_filename of {tensor.name}: an answer has one label, score and labels; left out")
        else:
            chosen = Labels(scores=tensor.name, file=LABELS_FILE), ("\n".join(lines) + "\n").encode()
            notes.append(f"label_filename of {tensor.name}: POST /models/{model.name} answers with the labels; V2 "
                         "gives the scores, and has no classification extension")  # fmt: skip
    return chosen


def _ensemble(model: _Model, version: str, found: Sequence[_Model], move: _Move) -> Moved:
    """Move an ensemble: its models' graphs as one, compared with the models run one after the other.

    Where they cannot be joined, it becomes a package of stages.
    """
    config = model.config
    if not config.inputs or not config.outputs:
        raise PackageError("an ensemble needs its inputs and outputs", where=str(model.folder))
    parts = [_part(step, found, move) for step in config.steps]
    front = (-1,) if config.max_batch_size else ()
    for tensor in (*config.inputs, *config.outputs):
        if tensor.reshape is not None:
            raise UnsupportedModel(f'"{tensor.name}": an ensemble has no reshape', where=str(model.folder))
    inputs, outputs = (
        [TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=(*front, *tensor.dims)) for tensor in tensors]
        for tensors in (config.inputs, config.outputs)
    )
    parts = in_order(parts, [spec.name for spec in inputs])
    info = PackageInfo(name=model.name, version=version, licence=move.licence)
    try:
        whole = joined(parts, inputs, outputs, name=model.name)
    except UnsupportedModel as error:
        return _staged(model, info, [part.name for part in parts], found, move, reason=str(error))
    file = move.workplace / f"{model.name}-{version}" / MODEL_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(whole.SerializeToString())
    draft = draft_of_onnx(file, info)
    if draft.feeds:
        draft = replace(draft, reference=run_in_turn(parts, draft.feeds, [spec.name for spec in outputs]))
    draft, notes = _settled(draft, model, move)
    names = ", ".join(dict.fromkeys(step.model for step in config.steps))
    notes.append(f"ensemble: {names} run as one graph, which holds their weights once more")
    return _install(model, draft, notes, move)


def _staged(
    model: _Model, info: PackageInfo, order: Sequence[str], found: Sequence[_Model], move: _Move, *, reason: str
) -> Moved:
    """Move an ensemble as a package of stages, each the package that its model became."""
    config = replace(model.config, steps=steps_in_order(model.config.steps, order))
    packages = {}
    for step in config.steps:
        part, version = _of_step(step, found)
        packages[step.model, step.version] = (part.name if part is not None else "", version)
    folder = move.workplace / f"{info.name}-{info.version}.package"
    assemble_stages(folder, info, config, packages, repository=move.repository.root)
    note = f"ensemble: a package of stages, which answers POST /models/{info.name} and nothing over V2"
    notes = [*config.notes, f"{note}, since its graphs cannot be joined: {reason}"]
    return _placed(model, info, folder, notes, move)


def _of_step(step: EnsembleStep, found: Sequence[_Model]) -> tuple[_Model | None, str]:
    """The model of a step, and which of its versions."""
    model = next((model for model in found if model.folder.name == step.model), None)
    if model is not None and model.config.steps:
        raise UnsupportedModel(f'a step is the ensemble "{step.model}"', expected="steps that are ONNX models")
    return model, str(step.version) if step.version > 0 else model.versions[-1] if model is not None else ""


def _part(step: EnsembleStep, found: Sequence[_Model], move: _Move) -> Part:
    _, version = _of_step(step, found)
    file = move.graphs.get((step.model, version))
    if file is None:
        raise PackageError(f'a step needs the model "{step.model}" {version}', expected="a model that is imported, too")
    onnx = need("onnx", "joining the models of an ensemble")
    try:
        loaded = onnx.load(str(file))
    except Exception as error:  # protobuf's own errors share no base with the library's
        raise PackageError(f"cannot be read: {error}", where=str(file)) from None
    return Part(name=step.model, model=loaded, inputs=step.inputs, outputs=step.outputs)


def _install(model: _Model, draft: Draft, notes: Sequence[str], move: _Move) -> Moved:
    """Pack the draft and put it into the repository."""
    info = draft.manifest.package
    folder = move.workplace / f"{info.name}-{info.version}.package"
    pack_draft(draft, folder, run_package=move.run_package)
    return _placed(model, info, folder, notes, move)


def _placed(model: _Model, info: PackageInfo, folder: Path, notes: Sequence[str], move: _Move) -> Moved:
    """Put a package into the repository, and say what came of it."""
    lock = read_lock(folder)
    place = move.repository.install(folder, move=True)
    return Moved(source=model.folder.name, name=info.name, version=info.version, digest=lock.digest, path=place,
                 rows=lock.parity.get("rows", 0), notes=tuple(notes))  # fmt: skip
