"""Packing: a trained model becomes a package, or an error that says why it may not.

The flow: import the model as a draft → write its files → compare with the original → lock → run the package as it
will be served and compare again → put it in place in one rename. Where anything fails, nothing is written.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onward.errors import PackageError, UsageError
from onward.package.archive import SUFFIX, write_archive
from onward.package.assembly import CheckFolder, assemble
from onward.package.examples import EXAMPLES_FILE, Example, write_examples
from onward.package.graphtrial import try_folder
from onward.package.importers.draft import Draft
from onward.package.importers.onnx import draft_of_onnx
from onward.package.importers.reference import Reference
from onward.package.manifest import MANIFEST_FILE, NAME_PATTERN, VERSION_PATTERN, dump_manifest
from onward.package.package import Package, open_package
from onward.package.parity import compare, compare_labels
from onward.package.records import PackageInfo
from onward.package.tensors import GraphSession
from onward.types import NUMPY_OF_DATATYPE, Array, Item, Result

__all__ = ["RunPackage", "assemble", "compare_graph", "pack", "pack_draft"]

RunPackage: TypeAlias = Callable[[Path, Sequence[Item]], Sequence[Result]]
"""Opens the package in a folder and answers each item: what `Pipeline` does, given from above."""

STATE_DICT_SUFFIXES = frozenset({".pth", ".pt"})
CONFIG_FILE = "config.json"
"""What the folder of a Hugging Face model has and a folder to be packed as it is has not."""
GGUF_SUFFIX = ".gguf"
TREE_SUFFIXES = frozenset({".json", ".ubj", ".model", ".txt", ".cbm"})
_KINDS = (
    "an .onnx or .gguf file, an XGBoost, LightGBM or CatBoost file, a folder with a manifest, "
    "the folder of a BERT encoder, an EfficientNet-lite .pth"
)
MAX_EXAMPLES = 5
MAX_EXAMPLE_VALUES = 500_000
MAX_PIPELINE_ROWS = 1024


def pack(
    source: Any,
    out: Path,
    *,
    name: str = "",
    version: str = "1.0.0",
    sample: Any = None,
    reference: Reference | None = None,
    labels: Path | None = None,
    tolerance: float | None = None,
    licence: str = "",
    description: str = "",
    run_package: RunPackage | None = None,
    check: CheckFolder | None = None,
    repositories: Iterable[Path] = (),
) -> Package:
    """Pack a trained model into the folder `out`, or an archive where `out` ends in `.onward`.

    `source` is an ONNX or GGUF file, a folder with a manifest, the folder of a BERT encoder, an EfficientNet-lite
    state dict (.pth), a draft, or a scikit-learn or LightGBM estimator; estimators need a `sample` of at least three
    rows.
    Encoders and state dicts are compared with a `reference`: an .npz file (or its arrays) of what the original gave,
    on 64 inputs or more; without one they are packed and the lock says `compared = false`. `labels` names a state
    dict's classes, or those of a file of trees, one a line.

    Every output may differ from the original's by `tolerance` (1e-5 unless given, 1e-4 for the logits of a state
    dict), times the original's size where that is above 1. `run_package` runs the finished package as it will be
    served, to compare it too; `check` looks at a folder with a manifest before it is locked; `repositories` are where
    the packages are that a manifest names as stages. Raises `ParityError` beyond the tolerance, `UsageError` where the
    call makes no sense, `PackageError` where the model cannot be served, `MissingExtra` where a converter is not
    installed.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError("there is something already", where=str(out), expected="a path that does not exist yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=".packing-", dir=out.parent))
    try:
        folder = workplace / "package"
        original = _Original(sample=sample, reference=reference, labels=labels, tolerance=tolerance)
        if isinstance(source, str | os.PathLike) and Path(source).is_dir() and not _is_encoder(Path(source)):
            original.refuse("a folder with a manifest")
            shutil.copytree(source, folder)
            try_folder(folder)
            assemble(folder, parity={"compared": False}, check=check, repositories=repositories)
        else:
            if not isinstance(source, Draft):
                source = _draft(source, _info(source, name, version, licence, description), original)
            pack_draft(source, folder, run_package=run_package)
        return _settle(folder, out)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def pack_draft(draft: Draft, folder: Path, *, run_package: RunPackage | None = None) -> None:
    """Write a draft into `folder`, which is not there yet, compare it with the original and lock it.

    `run_package` and what is raised are those of `pack`; where something is, the folder stays unfinished.
    """
    _write(draft, folder)
    assemble(folder, parity=compare_graph(draft, folder))
    if run_package is not None and draft.items:
        _compare_package(draft, run_package, folder)
    elif run_package is not None and (draft.manifest.execute.backend != "onnx" or EXAMPLES_FILE in draft.files):
        run_package(folder, ())  # opened, it answers its golden examples


def _info(source: Any, name: str, version: str, licence: str, description: str) -> PackageInfo:
    given = Path(source).stem if isinstance(source, str | os.PathLike) else type(source).__name__
    name = name or _name_of(given)
    if not re.fullmatch(NAME_PATTERN, name):
        expected = 'a lower-case letter, then up to 63 of a-z, 0-9, "_" and "-"'
        raise UsageError("not a package name", expected=expected, found=f'"{name}"')
    if not re.fullmatch(VERSION_PATTERN, version):
        raise UsageError("not a version", expected='one to four dotted numbers, such as "1.0.0"', found=f'"{version}"')
    return PackageInfo(name=name, version=version, licence=licence, description=description)


def _name_of(text: str) -> str:
    """A package name made of a file or class name: `HistGradientBoosting` → `hist-gradient-boosting`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", text).lower()
    name = re.sub(r"[^a-z0-9_-]+", "-", words).strip("-_")
    return (name if name[:1].isalpha() else f"model-{name}")[:64].strip("-_")


@dataclass(frozen=True, kw_only=True)
class _Original:
    """What the caller gave to compare with and to describe the source by."""

    sample: Any
    reference: Reference | None
    labels: Path | None
    tolerance: float | None

    def refuse(self, kind: str, *taken: str) -> None:
        """Raise `UsageError` for what this kind of source does not take: silently unused, it would mislead."""
        for name in ("sample", "reference", "labels"):
            if name not in taken and getattr(self, name) is not None:
                expected = " and ".join(taken) or "none of sample, reference and labels"
                raise UsageError(f"{kind} takes no {name}", where=name, expected=expected)


def _is_encoder(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and not (folder / MANIFEST_FILE).exists()


def _draft(source: Any, info: PackageInfo, original: _Original) -> Draft:
    if isinstance(source, str | os.PathLike):
        return _draft_of_path(Path(source), info, original)
    original.refuse("an estimator", "sample")
    sample, tolerance = original.sample, original.tolerance
    families = [module.split(".")[0] for module in (base.__module__ for base in type(source).__mro__)]
    if sample is None:
        raise UsageError("packing an estimator needs a sample", expected="sample=: rows to compare its answers on")
    if "xgboost" in families:
        from onward.package.importers.xgboost import draft_of_xgboost

        return draft_of_xgboost(source, info, sample=sample, tolerance=tolerance)
    if "catboost" in families:
        from onward.package.importers.catboost import draft_of_catboost

        return draft_of_catboost(source, info, sample=sample, tolerance=tolerance)
    if "lightgbm" in families:
        from onward.package.importers.lightgbm import draft_of_lightgbm

        return draft_of_lightgbm(source, info, sample=sample, tolerance=tolerance)
    if "sklearn" in families:
        from onward.package.importers.sklearn import draft_of_sklearn

        return draft_of_sklearn(source, info, sample=sample, tolerance=tolerance)
    if "torch" in families:
        from onward.package.importers.torchmodule import draft_of_module

        return draft_of_module(source, info, sample=sample, tolerance=tolerance)
    expected = f"{_KINDS}, or a scikit-learn, XGBoost, LightGBM or CatBoost estimator, or a PyTorch module"
    raise UsageError("cannot pack this", expected=expected, found=f"{type(source).__module__}.{type(source).__name__}")


def _draft_of_path(path: Path, info: PackageInfo, original: _Original) -> Draft:
    tolerance = original.tolerance
    if path.is_dir():
        from onward.package.importers.huggingface import draft_of_folder

        original.refuse("the folder of a model", "reference")
        return draft_of_folder(path, info, reference=original.reference, tolerance=tolerance)
    if not path.is_file():
        raise UsageError("no such file", where=str(path), expected=_KINDS)
    if path.suffix.lower() in STATE_DICT_SUFFIXES:
        from onward.package.importers.vision import draft_of_vision

        original.refuse("a state dict", "reference", "labels")
        labels = Path(original.labels) if original.labels is not None else None
        return draft_of_vision(path, info, labels=labels, reference=original.reference, tolerance=tolerance)
    if path.suffix.lower() == GGUF_SUFFIX:
        from onward.package.importers.gguf import draft_of_gguf

        original.refuse("a GGUF file")
        return draft_of_gguf(path, info)
    if path.suffix.lower() in TREE_SUFFIXES:
        from onward.package.importers.treefile import draft_of_tree_file

        original.refuse("a file of trees", "sample", "labels")
        labels = Path(original.labels) if original.labels is not None else None
        return draft_of_tree_file(path, info, sample=original.sample, labels=labels, tolerance=tolerance)
    if path.suffix.lower() == ".onnx":
        original.refuse("an ONNX file", "sample")
        return draft_of_onnx(path, info, sample=original.sample, tolerance=tolerance)
    raise UsageError(
        "cannot pack this kind of file", where=str(path), expected=f"{_KINDS} or, from Python, an estimator"
    )


def _write(draft: Draft, folder: Path) -> None:
    folder.mkdir()
    for path, contents in draft.files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(contents, Path):
            shutil.copyfile(contents, file)
        else:
            file.write_bytes(contents)
    (folder / MANIFEST_FILE).write_text(dump_manifest(draft.manifest), encoding="utf-8", newline="\n")
    examples = _examples(draft)
    if examples:
        write_examples(folder, examples)


def _examples(draft: Draft) -> list[Example]:
    """Golden examples from rows spread over the sample, with the original's outputs."""
    examples: list[Example] = []
    datatypes = {field.name: NUMPY_OF_DATATYPE[field.datatype] for field in draft.manifest.outputs}
    values = 0
    for row in _spread(len(draft.items), MAX_EXAMPLES):
        tensors = {
            name: tensor[row].astype(datatypes[name]) for name, tensor in draft.reference.items() if row < len(tensor)
        }
        values += sum(np.size(value) for value in (*draft.items[row].values(), *tensors.values()))
        if not tensors or values > MAX_EXAMPLE_VALUES:
            break
        tied = draft.labels and _is_tied(draft.reference[draft.label_scores][row], draft.tolerance)
        examples.append(
            Example(
                name=f"sample row {row}",
                input=draft.items[row],
                answer={"label": draft.labels[row]} if draft.labels and not tied else {},
                tensors=tensors,
                tolerance=max(draft.tolerance, 1e-5),
            )
        )
    return examples


def _is_tied(scores: Array, tolerance: float) -> bool:
    best = np.sort(scores)[::-1]
    return len(best) > 1 and bool(best[0] - best[1] <= 2 * tolerance * max(1.0, abs(float(best[0]))))


def _spread(count: int, most: int) -> list[int]:
    return sorted({int(row) for row in np.linspace(0, count - 1, min(count, most))}) if count else []


def compare_graph(draft: Draft, folder: Path) -> Mapping[str, Any]:
    """Compare the draft's model, written into `folder`, with the original on the whole sample.

    Returns what to state in the lock: whether there was anything to compare with, and the bounds. Raises `ParityError`.
    """
    if not draft.reference:
        return {"compared": False}
    rows = len(next(iter(draft.reference.values())))
    session = GraphSession(folder / draft.manifest.execute.file)
    step = draft.manifest.batching.max_batch_size
    parts = [
        session.run({name: array[start : start + step] for name, array in draft.feeds.items()})
        for start in range(0, rows, step)
    ]
    packed = {name: np.concatenate([part[name] for part in parts]) for name in draft.reference}
    differences = compare(draft.reference, packed, tolerance=draft.tolerance)
    origin = {"reference": draft.provenance} if draft.provenance else {}
    return {
        "compared": True,
        "level": "bounded",
        "rows": rows,
        "tolerance": draft.tolerance,
        "max_difference": differences,
        **origin,
    }


def _compare_package(draft: Draft, run_package: RunPackage, folder: Path) -> None:
    """Run the package as it will be served, on rows spread over the sample, and compare with the original."""
    rows = _spread(min(len(draft.items), len(next(iter(draft.reference.values())))), MAX_PIPELINE_ROWS)
    results = run_package(folder, [draft.items[row] for row in rows])
    if len(results) != len(rows):
        raise PackageError("the package did not answer every row", expected=str(len(rows)), found=str(len(results)))
    packed = {name: np.concatenate([result.tensors[name] for result in results]) for name in draft.reference}
    reference = {name: tensor[rows] for name, tensor in draft.reference.items()}
    compare(reference, packed, tolerance=draft.tolerance)
    if draft.labels:
        labels = [draft.labels[row] for row in rows]
        answers = [result.answer.get("label", "") for result in results]
        compare_labels(labels, answers, reference[draft.label_scores], tolerance=draft.tolerance)


def _settle(folder: Path, out: Path) -> Package:
    if out.suffix == SUFFIX:
        write_archive(folder, out)
        return open_package(out)
    if out.exists():
        out.rmdir()  # empty, or it would have been refused: a rename does not replace folders on every system
    folder.rename(out)
    return open_package(out, verify=False)
