"""Assembly: a folder with a manifest and its files becomes a package, once everything about it has been checked.

The last thing written is `onward.lock`, in one rename: a folder without it is not a package.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from onward.errors import ManifestError, PackageError
from onward.package.digest import LOCK_FILE, SIGNATURE_FILE, lock_of, lock_text, package_files
from onward.package.examples import read_examples
from onward.package.manifest import POLICY_FILE, load_manifest
from onward.package.package import Package, check_contents, open_package
from onward.package.records import (
    Catalogue,
    Entities,
    GenerateGraph,
    JsonText,
    Labels,
    Manifest,
    PrepareGraph,
    Tokenize,
)
from onward.package.sections import suggestion
from onward.package.signature import signature_of
from onward.package.stages import check_stages
from onward.package.tensors import graph_tensors
from onward.package.toml_text import load_toml
from onward.types import Signature

PICKLED_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".pyc"})

CheckFolder: TypeAlias = Callable[[Path, Manifest], object]
"""Raises what the layers above find wrong with a folder, before it is locked: its policy, for one."""


def assemble(
    folder: Path,
    *,
    parity: Mapping[str, Any] | None = None,
    check: CheckFolder | None = None,
    repositories: Iterable[Path] = (),
) -> Package:
    """Check a folder that holds a manifest and its files, and write its `onward.lock`.

    `parity` are the portable bounds to state in the lock, `check` what else may be wrong, `repositories` where the
    packages of stages are, which the lock pins. Raises `ManifestError` naming file, line and key, `RefusedGraph`, or
    `PackageError`; the folder then has no lock.
    """
    folder = Path(folder)
    for stale in (LOCK_FILE, SIGNATURE_FILE):
        (folder / stale).unlink(missing_ok=True)
    manifest = load_manifest(folder)
    check_files(manifest, folder)
    check_contents(manifest, folder)
    pins = check_stages(manifest, repositories)
    if manifest.execute.backend == "onnx" and not manifest.stages:
        signature_of_folder(manifest, folder)
    read_examples(folder)
    _check_policy(folder)
    if check is not None:
        check(folder, manifest)
    _write_atomically(folder / LOCK_FILE, lock_text(lock_of(folder, parity=parity, stages=pins)))
    return open_package(folder, verify=False)


def signature_of_folder(manifest: Manifest, folder: Path) -> Signature:
    """Load every graph of a folder and check the manifest against their tensors."""
    prepare = [step.file for step in manifest.prepare if isinstance(step, PrepareGraph)]
    generate = [step.file for step in manifest.generate if isinstance(step, GenerateGraph)]
    prepare_inputs, prepare_outputs = graph_tensors(folder / prepare[0]) if prepare else (None, None)
    model_inputs, model_outputs = graph_tensors(folder / manifest.execute.file)
    generate_inputs, last_outputs = graph_tensors(folder / generate[0]) if generate else (None, model_outputs)
    return signature_of(
        manifest,
        model_inputs,
        last_outputs,
        prepare_inputs=prepare_inputs,
        prepare_outputs=prepare_outputs,
        model_outputs=model_outputs,
        generate_inputs=generate_inputs,
        folder=folder,
    )


def check_files(manifest: Manifest, folder: Path) -> None:
    """Every file that the manifest names is there, and nothing is there that may not be in a package."""
    files = package_files(folder)
    for path in files:
        if Path(path).suffix.lower() in PICKLED_SUFFIXES:
            expected = "ONNX, safetensors, text or TOML; nothing that runs code when it is read"
            raise PackageError("this kind of file may not be in a package", where=path, expected=expected)
    for key, path in _named_files(manifest):
        if path not in files:
            expected = "a file of the package"
            found = f'"{path}"{suggestion(path, files)}'
            raise ManifestError("no such file", where=manifest.where(key), expected=expected, found=found)


def _named_files(manifest: Manifest) -> list[tuple[str, str]]:
    named = []
    for index, prepared in enumerate(manifest.prepare):
        if isinstance(prepared, Tokenize | PrepareGraph):
            named.append((f"prepare[{index}].file", prepared.file))
    if manifest.stages:
        pass  # no model of its own
    elif manifest.execute.backend != "python":
        named.append(("execute.file", manifest.execute.file))
    else:
        named.append(("execute.entry", f"{manifest.execute.entry.split(':')[0]}.py"))
    for index, generated in enumerate(manifest.generate):
        if isinstance(generated, Labels | GenerateGraph | Catalogue | Entities | JsonText):
            named.append((f"generate[{index}].file", generated.file))
    return named


def _check_policy(folder: Path) -> None:
    file = folder / POLICY_FILE
    if file.is_file():
        try:
            load_toml(file.read_bytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise PackageError(f"not valid TOML: {error}", where=POLICY_FILE, expected="TOML in UTF-8") from None


def _write_atomically(file: Path, text: str) -> None:
    # The temporary file is outside the folder, which never holds anything that the lock does not list.
    handle, temporary = tempfile.mkstemp(prefix=f".{file.parent.name}-", suffix=".lock", dir=file.parent.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
