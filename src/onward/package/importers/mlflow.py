"""Imports an MLflow model, the folder with an `MLmodel` file: from ONNX, a file of trees or a Hugging Face folder.

MLflow is not needed, and no pickle is opened: a flavour whose model is one is refused with what to do instead. The
signature's columns become the package's inputs, and the input example its golden examples.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import PackageError, UsageError
from onward.package.graphtrial import try_graphs
from onward.package.importers.draft import Draft
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.huggingface import CONFIG_FILE, draft_of_folder
from onward.package.importers.mlflow_example import read_example
from onward.package.importers.onnx import draft_of_onnx
from onward.package.importers.plainyaml import read_plain_yaml
from onward.package.importers.treefile import draft_of_tree_file
from onward.package.records import PackageInfo, Table
from onward.package.sections import is_inner_path
from onward.package.tensors import GraphSession
from onward.types import Array, Field, Item

MODEL_FILE = "MLmodel"
MAX_BYTES = 4 << 20

_LOGGED_AS_ONNX = "log it as ONNX (mlflow.onnx.log_model) and import that"
_FROM_PYTHON = "in the process that has the model, onward.pack(model, OUT, sample=rows)"
_TREES = ("xgboost", "lightgbm", "catboost")
_HUGGING_FACE = ("sentence_transformers", "transformers")
_SENTENCES = "model.sentence_transformer"
_TREE_SUFFIXES = frozenset({".json", ".ubj", ".xgb", ".lgb", ".txt", ".cb", ".cbm", ".model"})
_PICKLED_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".skops", ".pth", ".pt"})
_INSTEAD = {
    "sklearn": f"{_FROM_PYTHON}; or convert it with skl2onnx and {_LOGGED_AS_ONNX}",
    "lightgbm": f"{_FROM_PYTHON}; or log its booster, model.booster_, which has a file of its own",
    "xgboost": f"{_FROM_PYTHON}; or log its booster, which has a file of its own",
    "pytorch": f"export it with torch.onnx.export, then {_LOGGED_AS_ONNX}",
    "tensorflow": f"convert it with tf2onnx, then {_LOGGED_AS_ONNX}",
    "keras": f"convert it with tf2onnx, then {_LOGGED_AS_ONNX}",
    "transformers": "the whole model: merge the adapter into it where it was trained, and log that",
    "spark": f"convert it with onnxmltools, then {_LOGGED_AS_ONNX}",
    "python_function": 'a folder with [execute] backend = "python", for onward pack (docs/how-to/python-backend.md)',
}
_DATATYPES = {"double": "FP32", "float": "FP32", "integer": "INT64", "long": "INT64", "boolean": "BOOL"}


@dataclass(frozen=True, kw_only=True)
class MlflowModel:
    """What an `MLmodel` file says: flavours by name, and the columns and tensors that the model takes."""

    folder: Path
    flavors: Mapping[str, Mapping[str, Any]]
    inputs: Sequence[Mapping[str, Any]] = ()
    example: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    notes: tuple[str, ...] = ()


def draft_of_mlflow(
    folder: Path, info: PackageInfo, *, tolerance: float | None = None
) -> tuple[Draft, tuple[str, ...]]:
    """The draft of an MLflow model, and what does not carry over, in words.

    Raises `UnsupportedModel` where no flavour has a file that is safe to read, `PackageError` for a folder that is
    not whole.
    """
    model = read_mlmodel(folder)
    info = replace(info, description=info.description or model.origin)
    notes = list(model.notes)
    if "onnx" in model.flavors:
        return _of_onnx(model, info, notes, tolerance), tuple(notes)
    for flavor in _TREES:
        settings = model.flavors.get(flavor)
        data = settings.get("data") if settings is not None else None
        if isinstance(data, str) and Path(data).suffix.lower() in _TREE_SUFFIXES:
            if model.example:
                notes.append("the input example is not used: rows to compare on are made from the trees")
            return draft_of_tree_file(_file(model, data), info, tolerance=tolerance), tuple(notes)
    for flavor in _HUGGING_FACE:
        if flavor in model.flavors and not model.flavors[flavor].get("peft_adaptor"):
            return _of_hugging_face(model, flavor, info, notes, tolerance), tuple(notes)
    raise _refusal(model)


def read_mlmodel(folder: Path) -> MlflowModel:
    """Read a folder's `MLmodel`. Raises `UsageError` where there is none, `PackageError` where it cannot be read."""
    file = folder / MODEL_FILE
    if not file.is_file():
        raise UsageError("no MLflow model", where=str(folder), expected=f"a folder with the file {MODEL_FILE}")
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackageError(f"cannot be read: {error}", where=str(file), expected="YAML in UTF-8") from None
    if len(data) > MAX_BYTES:
        raise PackageError("the file is too long", where=str(file), expected=f"at most {MAX_BYTES} bytes")
    content = read_plain_yaml(text, str(file))
    flavors = content.get("flavors") if isinstance(content, dict) else None
    if not isinstance(flavors, dict) or not all(isinstance(settings, dict) for settings in flavors.values()):
        raise PackageError("no flavours", where=str(file), expected="a mapping `flavors` of mappings")
    signature = content.get("signature")
    signature = signature if isinstance(signature, dict) else {}
    example = content.get("saved_input_example_info")
    name = content.get("model_uuid") or content.get("run_id")
    return MlflowModel(
        folder=folder,
        flavors=flavors,
        inputs=_schema(signature.get("inputs"), str(file)),
        example=example if isinstance(example, dict) else {},
        origin=f"MLflow model {name}" if isinstance(name, str) else "",
        notes=tuple(_notes(folder, content, signature)),
    )


def _schema(text: Any, where: str) -> Sequence[Mapping[str, Any]]:
    """A signature's inputs: a list of mappings, as JSON in a text."""
    if not isinstance(text, str):
        return ()
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        raise PackageError("the signature is not JSON", where=where, expected="signature.inputs as JSON") from None
    schema = schema if isinstance(schema, list) else []
    return [each for each in schema if isinstance(each, dict)]


def _notes(folder: Path, content: Mapping[str, Any], signature: Mapping[str, Any]) -> list[str]:
    notes = []
    if signature.get("params"):
        notes.append("signature.params: a package takes no parameters beside its inputs")
    if content.get("metadata"):
        notes.append("metadata: not carried over")
    if any(settings.get("code") for settings in content["flavors"].values()):
        notes.append("code: nothing of it runs")
    if any((folder / name).exists() for name in ("conda.yaml", "requirements.txt", "python_env.yaml")):
        notes.append("conda.yaml, requirements.txt, python_env.yaml: not needed, since the graph runs without Python")
    return notes


def _refusal(model: MlflowModel) -> UnsupportedModel:
    """Why no flavour can be imported, and what to do instead."""
    named = [name for name in model.flavors if name != "python_function"] or list(model.flavors)
    first = named[0] if named else ""
    settings = model.flavors.get(first, {})
    data = next((settings[key] for key in ("pickled_model", "data", "model_data") if settings.get(key)), "")
    pickled = isinstance(data, str) and (Path(data).suffix.lower() in _PICKLED_SUFFIXES or first == "sklearn")
    reason = (
        "its model is a pickle, or of a format like it, and none is ever opened"
        if pickled
        else ("it has no flavour that is read here")
    )
    return UnsupportedModel(reason, where=str(model.folder), expected=_INSTEAD.get(first, _LOGGED_AS_ONNX),
                            found=", ".join(named) + (f" ({data})" if data else ""))  # fmt: skip


def _file(model: MlflowModel, path: Any) -> Path:
    """A file that the `MLmodel` names. Raises `PackageError` where it is none of the folder."""
    if not isinstance(path, str) or not is_inner_path(path):
        raise PackageError("a file out of the folder", where=str(model.folder / MODEL_FILE),
                           expected="a file of the model's folder", found=f'"{path}"')  # fmt: skip
    file = model.folder / path
    if not file.resolve().is_relative_to(model.folder.resolve()) or not file.is_file():
        raise PackageError("no such file", where=str(file), expected="a file of the model's folder")
    return file.resolve()


def _of_onnx(model: MlflowModel, info: PackageInfo, notes: list[str], tolerance: float | None) -> Draft:
    settings = model.flavors["onnx"]
    file = _file(model, settings.get("data"))
    draft = _compared(model, file, info, notes, tolerance)
    options = settings.get("onnx_session_options")
    options = dict(options) if isinstance(options, dict) else {}
    threads = options.pop("intra_op_num_threads", 0)
    if isinstance(threads, int) and 0 < threads <= 4096:
        draft = replace(draft, manifest=replace(draft.manifest, execute=replace(draft.manifest.execute,
                                                                                threads=threads)))  # fmt: skip
    notes += [f"onnx_session_options.{key}: not carried over" for key in options]
    providers = settings.get("providers")
    if isinstance(providers, list) and any(str(each) != "CPUExecutionProvider" for each in providers):
        notes.append('providers: the package runs on the processor; set [execute] providers = ["cuda", "cpu"] for more')
    if not draft.items:
        notes.append("no golden examples: there is no input example, and the model took none of the random inputs")
    columns = _columns(model, draft, notes)
    return draft if not columns else _with_columns(draft, columns)


def _compared(model: MlflowModel, file: Path, info: PackageInfo, notes: list[str], tolerance: float | None) -> Draft:
    """The draft, on the rows of the input example where they fit the model."""
    if model.example:
        try_graphs([file], file.parent)  # before the runtime here sees it
        names = [spec.name for spec in GraphSession(file).inputs]
        try:
            sample = read_example(model.folder, model.example, names)
            return draft_of_onnx(file, info, sample=sample, tolerance=tolerance, is_tried=True)
        except (UsageError, ValueError) as error:  # numpy's own, for texts where numbers are due
            notes.append(f"the input example is not used: {error}")
        return draft_of_onnx(file, info, tolerance=tolerance, is_tried=True)
    return draft_of_onnx(file, info, tolerance=tolerance)


def _of_hugging_face(
    model: MlflowModel, flavor: str, info: PackageInfo, notes: list[str], tolerance: float | None
) -> Draft:
    """The draft of an encoder or classifier that MLflow keeps as its folder, the tokenizer beside it."""
    notes.append("not compared with the original, which needs PyTorch: onward pack --reference does so")
    if model.example:
        notes.append("the input example is not used: nothing here says what the original answers on it")
    if flavor == "sentence_transformers":
        _file(model, f"{_SENTENCES}/{CONFIG_FILE}")
        for file in (model.folder / _SENTENCES).rglob("*"):
            if not file.resolve().is_relative_to(model.folder.resolve()):
                raise PackageError("a link leads out of the folder", where=str(file))
        return draft_of_folder(model.folder / _SENTENCES, info, tolerance=tolerance)
    inner = str(model.flavors[flavor].get("model_binary", "model"))
    with tempfile.TemporaryDirectory() as place:
        for path in (CONFIG_FILE, "model.safetensors"):
            (Path(place) / path).symlink_to(_file(model, f"{inner}/{path}"))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            for path in (f"{inner}/{name}", f"components/tokenizer/{name}"):
                if (model.folder / path).is_file() and not (Path(place) / name).exists():
                    (Path(place) / name).symlink_to(_file(model, path))
        return draft_of_folder(Path(place), info, tolerance=tolerance)


def _columns(model: MlflowModel, draft: Draft, notes: list[str]) -> tuple[Field, ...]:
    """The signature's columns as inputs, where the graph takes them as one matrix in their order; else none."""
    columns = [each for each in model.inputs if each.get("type") in _DATATYPES and each.get("name")]
    if not columns or len(columns) != len(model.inputs):
        return ()
    inputs = draft.manifest.inputs
    names = [str(each["name"]) for each in columns]
    if set(names) == {each.name for each in inputs}:
        return ()
    fits = len(inputs) == 1 and inputs[0].datatype == "FP32" and inputs[0].shape in ((-1,), (len(columns),))
    if not fits or len(set(names)) != len(names):
        notes.append(f"signature: its columns are not the model's tensors; the inputs are {_listed(inputs)}")
        return ()
    fields = []
    for each in columns:
        datatype = _DATATYPES[each["type"]]
        optional = each.get("required") is False
        if optional and datatype != "FP32":
            notes.append(f'"{each["name"]}": optional in the signature, required here: only floats can be missing')
        fields.append(Field(name=str(each["name"]), datatype=datatype, required=not (optional and datatype == "FP32")))
    return tuple(fields)


def _with_columns(draft: Draft, columns: tuple[Field, ...]) -> Draft:
    """The draft with named columns in front of the model's one matrix, which V2 clients still find."""
    (tensor,) = draft.manifest.inputs
    step = Table(columns=tuple(column.name for column in columns), output=tensor.name)
    rows = draft.feeds.get(tensor.name)
    items = [_item(columns, row) for row in rows] if rows is not None else []
    if any(item is None for item in items):  # the probes are not what such columns hold: no row to promise
        items, draft = [], replace(draft, feeds={}, reference={})
    kept: tuple[Item, ...] = tuple(item for item in items if item is not None)
    manifest = replace(draft.manifest, inputs=columns, prepare=(step,))
    return replace(draft, manifest=manifest, items=kept)


def _item(columns: Sequence[Field], row: Array) -> Item | None:
    """One row of the matrix as the item that it came from; None where a value is not of its column."""
    item: dict[str, Any] = {}
    for column, value in zip(columns, row.tolist(), strict=True):
        if np.isnan(value) and not column.required:
            continue
        if column.datatype == "FP32":
            item[column.name] = value
        elif value != int(value) or (column.datatype == "BOOL" and value not in (0, 1)):
            return None
        else:
            item[column.name] = bool(value) if column.datatype == "BOOL" else int(value)
    return item


def _listed(fields: Sequence[Field]) -> str:
    return ", ".join(f"{each.name} {each.datatype} {list(each.shape)}" for each in fields[:12])
