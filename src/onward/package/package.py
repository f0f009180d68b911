"""A package on disk, opened: its folder, its manifest and its identity.

Opening verifies before it parses: first, where the policy asks for one, the signature, then every file against
`onward.lock`, then the manifest, then the graphs for operators that may not be served. It knows nothing of runtimes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onward.errors import DigestMismatch, NotFound
from onward.package.digest import read_lock, verify_folder
from onward.package.gguf import check_gguf
from onward.package.graphcheck import check_graph
from onward.package.manifest import MANIFEST_FILE, Manifest, decode_manifest, load_manifest
from onward.package.reading import read_plain
from onward.package.records import GenerateGraph, PrepareGraph, Tokenize
from onward.package.sections import TEXT_LIMIT_BYTES
from onward.package.tokenizercheck import check_tokenizer
from onward.package.trust import read_trusted_lock
from onward.types import PackageId

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An opened package: `folder` holds its files, `id` says which package it is."""

    folder: Path
    manifest: Manifest
    id: PackageId


def open_package(path: Path, *, verify: bool = True) -> Package:
    """Open a package folder or a `.onward` archive.

    With `verify`, every file is hashed again: a missing, extra or changed file raises `DigestMismatch`, a package that
    is not signed as the policy wants `NotSigned` or `SignatureRefused`, a graph with training or foreign operators
    `RefusedGraph`, and what no native reader should see `PackageError`. Without it the lock is believed, which is right
    only for files that this process, or one it trusts, has verified since nobody else could write to them.
    Raises `NotFound` where there is nothing, and `ManifestError` or `PackageError` where the package is not valid.
    """
    path = Path(path)
    if not path.exists():
        raise NotFound("no such package", where=str(path), expected="a package folder or a .onward archive")
    folder = path if path.is_dir() else _unpacked(path)
    lock = read_trusted_lock(folder) if verify else read_lock(folder)
    if verify:
        verify_folder(folder, lock)
    manifest = load_manifest(folder)
    if verify:
        check_contents(manifest, folder)
    identity = PackageId(name=manifest.package.name, version=manifest.package.version, digest=lock.digest)
    return Package(folder=folder, manifest=manifest, id=identity)


def check_contents(manifest: Manifest, folder: Path) -> None:
    """Look through the files that native code will read, before it does: graphs, language models, tokenizers.

    Raises `RefusedGraph` or `PackageError`, naming the file.
    """
    for graph in graph_files(manifest):
        check_graph(folder / graph, folder)
    if not manifest.stages and manifest.execute.backend == "piper":
        check_graph(folder / manifest.execute.file, folder)
    if not manifest.stages and manifest.execute.backend == "llama":
        check_gguf(folder / manifest.execute.file)
    tokenizers = {step.file for step in manifest.prepare if isinstance(step, Tokenize)}
    for file in sorted({TOKENIZER_FILE, *tokenizers}):
        if (folder / file).is_file():  # a step's file that is missing is told by who needs it
            check_tokenizer(folder / file)


def verified_manifest(folder: Path) -> Manifest:
    """The manifest of a package folder, itself verified, before anything else of the folder is: to see what it is.

    Raises what `open_package` raises for a lock, a signature or a manifest that is wrong.
    """
    lock = read_trusted_lock(folder)
    file = folder / MANIFEST_FILE
    try:
        data = read_plain(file, TEXT_LIMIT_BYTES)
    except OSError as error:
        raise DigestMismatch(f"cannot be read: {error.strerror}", where=str(file)) from None
    if hashlib.sha256(data).hexdigest() != lock.files.get(MANIFEST_FILE):
        raise DigestMismatch(f'"{MANIFEST_FILE}" has changed', where=str(folder))
    return decode_manifest(data, file=str(file))


def graph_files(manifest: Manifest) -> tuple[str, ...]:
    """The ONNX files of a package, in the order in which they run."""
    prepare = [step.file for step in manifest.prepare if isinstance(step, PrepareGraph)]
    has_graph = manifest.execute.backend == "onnx" and not manifest.stages
    model = [manifest.execute.file] if has_graph else []
    generate = [step.file for step in manifest.generate if isinstance(step, GenerateGraph)]
    return tuple(prepare + model + generate)


def _unpacked(path: Path) -> Path:
    from onward.package.archive import unpack  # a folder needs nothing of zip files

    return unpack(path)


def is_package(path: Path) -> bool:
    """Whether `path` looks like a packed package: a folder with a lock, or an archive."""
    if path.is_file():
        from onward.package.archive import is_archive

        return is_archive(path)
    return (path / "onward.lock").is_file()
