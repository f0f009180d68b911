"""The static folder: the page, the module, the two libraries, and the package as a browser reads it.

What the manifest says goes into `bundle.json`, so that no browser has to read TOML; nothing else is said twice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from onward.errors import NotForEdge
from onward.generate.catalogue import read_catalogue
from onward.package.examples import Example, read_examples
from onward.package.graphcheck import check_graph, domains
from onward.package.package import Package, graph_files
from onward.package.records import (
    Catalogue,
    DecodeImage,
    GenerateGraph,
    JsonText,
    Labels,
    Named,
    PrepareGraph,
    Table,
    Tokenize,
)
from onward.package.tensors import graph_tensors
from onward.prepare.profile import Features
from onward.runners.edge.web.npm import ONNXRUNTIME, TOKENIZERS, library
from onward.types import Field

FILES = Path(__file__).parent / "files"
_PAGE = Path(__file__).parents[2] / "serve" / "page"  # the form and the answer look as they do behind a server
_PAGE_FILES = ("page.js", "page.css", "icon.svg", "microphone.js")
_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_WEBGPU = ("ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi.mjs", "ort-wasm-simd-threaded.jspi.wasm")
_EXACT = 2**53
_WEBGPU_FROM_BYTES = 4_000_000  # below that, WASM is done before a GPU has been asked
_READABLE = (Table, Tokenize, DecodeImage, PrepareGraph, Labels, Named, Catalogue, JsonText, GenerateGraph)
_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
    ".json": "application/json", ".svg": "image/svg+xml", ".wasm": "application/wasm", ".txt": "text/plain",
    ".ts": "text/plain", ".md": "text/markdown", ".png": "image/png", ".jpeg": "image/jpeg", ".webp": "image/webp",
    ".gif": "image/gif", ".bmp": "image/bmp",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """What was written: `first_visit_bytes` is what a browser fetches that runs the model on WASM."""

    files: int
    size_bytes: int
    first_visit_bytes: int
    webgpu: bool
    libraries: tuple[str, ...]


def check_bundle(package: Package) -> None:
    """Raise `NotForEdge` for a package that a browser cannot run."""
    manifest = package.manifest
    for step in (*manifest.prepare, *manifest.generate):
        if not isinstance(step, _READABLE):
            expected = "tables, text, images and graphs"
            raise NotForEdge(where=package.id.name, expected=expected, found=f'step = "{step.step}"')
    for field in (*manifest.inputs, *manifest.outputs):
        if field.datatype == "FP16" or field.content in ("audio", "chat"):
            found = f"{field.name}: {field.datatype}, {field.content}"
            raise NotForEdge(where=package.id.name, expected="values, texts and images in whole datatypes", found=found)
    for graph in graph_files(manifest):
        if check_graph(package.folder / graph, package.folder):
            raise NotForEdge("a browser reads a graph from one file", where=graph, expected="a model with its weights")
        halves = [
            spec.name for specs in graph_tensors(package.folder / graph) for spec in specs if spec.datatype == "FP16"
        ]
        if halves:
            raise NotForEdge(
                where=graph, expected="tensors between graphs in whole datatypes", found=f"{halves[0]}: FP16"
            )
    for step in manifest.generate:
        if isinstance(step, Catalogue) and any(abs(one) > _EXACT for one in read_catalogue(package.folder / step.file)):
            expected = "ids up to 2^53, as JavaScript's numbers hold them"
            raise NotForEdge(where=step.file, expected=expected)


def write_bundle(
    package: Package, out: Path, *, webgpu: bool = True, progress: Callable[[str], None] = lambda _: None
) -> BundleFacts:
    """Write the folder into `out`, which exists and is empty. Raises `NotForEdge`, and what `npm.library` raises."""
    check_bundle(package)
    manifest = package.manifest
    model = package.folder / manifest.execute.file
    webgpu = webgpu and model.stat().st_size >= _WEBGPU_FROM_BYTES and "ai.onnx.ml" not in domains(model)
    tokenizes = any(isinstance(step, Tokenize) for step in manifest.prepare)
    libraries = (ONNXRUNTIME, TOKENIZERS) if tokenizes else (ONNXRUNTIME,)
    for own in sorted(FILES.iterdir()):
        shutil.copyfile(own, out / own.name)
    for name in _PAGE_FILES:
        shutil.copyfile(_PAGE / name, out / name)
    runtime = out / "runtime"
    runtime.mkdir()
    fetched = library(ONNXRUNTIME, progress=progress) / "dist"
    for name in (*_RUNTIME, *(_WEBGPU if webgpu else ())):
        shutil.copyfile(fetched / name, runtime / name)
    if tokenizes:
        shutil.copyfile(
            library(TOKENIZERS, progress=progress) / "dist" / "tokenizers.min.mjs", runtime / "tokenizers.mjs"
        )
    _write_package(package, out / "package")
    write_index(package, out, webgpu=webgpu, libraries=[f"{one.name} {one.version}" for one in libraries])
    lines = [f"{one.name} {one.version}: {one.licence}\n" for one in libraries]
    (out / "LICENCES.txt").write_text(
        f"{package.id.name} {package.id.version}: {manifest.package.licence or 'not stated'}\n"
        f"onward {version('onward')}: Apache-2.0\n{''.join(lines)}", "utf-8",
    )  # fmt: skip
    return _facts(out, webgpu, tuple(f"{one.name} {one.version}" for one in libraries))


def write_index(
    package: Package, out: Path, *, webgpu: bool, libraries: Iterable[str], certificate: Mapping[str, Any] | None = None
) -> None:
    """Write `bundle.json`, which says all that the page needs and names every file by its digest, and the service
    worker that holds this bundle and no other."""
    shutil.copyfile(FILES / "offline.js", out / "offline.js")
    told = _told(package) | {"webgpu": webgpu, "libraries": list(libraries), "certificate": dict(certificate or {})}
    left_out = {"bundle.json", "offline.js", "LICENCES.txt", "certificate.json"}
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in left_out]
    told["files"] = [_file(path, out) for path in paths]
    told["digest"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    (out / "bundle.json").write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", "utf-8")
    text = (FILES / "offline.js").read_text("utf-8")
    (out / "offline.js").write_text(text.replace('const DIGEST = "";', f'const DIGEST = "{told["digest"]}";'), "utf-8")


def read_index(out: Path) -> dict[str, Any]:
    """What `bundle.json` says."""
    told: dict[str, Any] = json.loads((out / "bundle.json").read_text("utf-8"))
    return told


def _told(package: Package) -> dict[str, Any]:
    manifest = package.manifest
    features = Features.of(manifest)
    filled = {field.name for field in manifest.inputs}
    return {
        "format": 1,
        "package": asdict(manifest.package) | {"digest": package.id.digest},
        "inputs": [_field(field) for field in manifest.inputs],
        "outputs": [_field(field) for field in manifest.outputs],
        "prepare": [_step(step) for step in manifest.prepare],
        "generate": [_step(step) for step in manifest.generate],
        "profile": features.source.entity if features else "",
        "defaults": {name: value for name, value in features.default.items() if name in filled} if features else {},
        "batching": {"max_batch_size": manifest.batching.max_batch_size, "pad": dict(manifest.batching.pad)},
        "limits": {"pixels": manifest.limits.pixels},
        "model": manifest.execute.file,
        "prepare_graph": next((step.file for step in manifest.prepare if isinstance(step, PrepareGraph)), ""),
        "generate_graph": next((step.file for step in manifest.generate if isinstance(step, GenerateGraph)), ""),
    }


def _field(field: Field) -> dict[str, Any]:
    return {
        name: value for name, value in asdict(field).items() if value is not None and (name != "categories" or value)
    }


def _step(step: Any) -> dict[str, Any]:
    return {"step": step.step, **asdict(step)}


def _write_package(package: Package, folder: Path) -> None:
    """The files that the page reads: graphs, tokenizer, labels, catalogue, card, and the examples as JSON."""
    manifest = package.manifest
    folder.mkdir()
    named = [manifest.execute.file, *(getattr(step, "file", "") for step in (*manifest.prepare, *manifest.generate))]
    for name in dict.fromkeys([*named, "card.md", "LICENCE.txt"]):
        source = package.folder / name
        if name and source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
    examples = [_example(example, index, folder) for index, example in enumerate(read_examples(package.folder))]
    (folder / "examples.json").write_bytes(msgspec.json.encode(examples))  # a number that is none becomes null


def _example(example: Example, index: int, folder: Path) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in example.input.items():
        given[name] = value
        if isinstance(value, bytes):
            file = Path("examples") / f"{index}-{name}{_suffix(value)}"
            (folder / "examples").mkdir(exist_ok=True)
            (folder / file).write_bytes(value)
            given[name] = {"file": file.as_posix()}
    return asdict(example) | {"input": given}


def _suffix(image: bytes) -> str:
    kinds = {b"\xff\xd8": ".jpeg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"}
    return kinds.get(image[:2], ".bin")


def _file(path: Path, out: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    inner = path.relative_to(out).as_posix()
    when = "webgpu" if path.name in _WEBGPU else "page" if "/" not in inner and path.suffix != ".ts" else "package"
    kind = _TYPES.get(path.suffix, "application/octet-stream")
    return {"path": inner, "size_bytes": path.stat().st_size, "sha256": digest, "type": kind, "when": when}


def _facts(out: Path, webgpu: bool, libraries: tuple[str, ...]) -> BundleFacts:
    files = [path for path in out.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    unused = sum(path.stat().st_size for path in files if path.name in _WEBGPU)
    return BundleFacts(
        files=len(files), size_bytes=total, first_visit_bytes=total - unused, webgpu=webgpu, libraries=libraries
    )
