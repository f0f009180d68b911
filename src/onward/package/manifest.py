"""The manifest `onward.toml`: read, checked and written.

Pure: looks at the text only. What the graphs really take and give is checked by `onward.package.signature`, and
that the files exist by `onward.package.pack.assemble`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from onward.errors import ManifestError, PackageError
from onward.package.features import read_features, read_profile
from onward.package.manifest_checks import check_manifest
from onward.package.manifest_sampling import read_sampling
from onward.package.manifest_stages import read_answer, read_stages
from onward.package.manifest_steps import read_generate, read_prepare
from onward.package.manifest_text import dump_manifest
from onward.package.reading import read_plain
from onward.package.records import (
    Backend,
    Batching,
    Catalogue,
    DecodeImage,
    Execute,
    Feature,
    GenerateGraph,
    GenerateStep,
    Labels,
    Limits,
    Manifest,
    Named,
    PackageInfo,
    PrepareGraph,
    PrepareStep,
    ProfileSource,
    Table,
    Tokenize,
)
from onward.package.sections import TEXT_LIMIT_BYTES, Document, ManifestProblems, Section, shown
from onward.types import NUMPY_OF_DATATYPE, Content, Field

__all__ = [
    "FORMAT",
    "MANIFEST_FILE",
    "NAME_PATTERN",
    "VERSION_PATTERN",
    "Backend",
    "Batching",
    "Catalogue",
    "DecodeImage",
    "Execute",
    "Feature",
    "GenerateGraph",
    "GenerateStep",
    "Labels",
    "Limits",
    "Manifest",
    "ManifestProblems",
    "Named",
    "PackageInfo",
    "PrepareGraph",
    "PrepareStep",
    "ProfileSource",
    "Table",
    "Tokenize",
    "decode_manifest",
    "dump_manifest",
    "is_name",
    "is_version",
    "load_manifest",
    "parse_manifest",
]

FORMAT = 1
MANIFEST_FILE = "onward.toml"
POLICY_FILE = "policy.toml"
DIALOGUE_FILE = "dialogue.toml"
NAME_PATTERN = r"[a-z][a-z0-9_-]{0,63}"
VERSION_PATTERN = r"(?:0|[1-9][0-9]{0,8})(?:\.(?:0|[1-9][0-9]{0,8})){0,3}"

_NAME_EXPECTED = 'a lower-case letter, then up to 63 of a-z, 0-9, "_" and "-"'
_VERSION_EXPECTED = 'one to four dotted numbers, such as "1.0.0"'
_TABLES = (
    "package", "input", "output", "prepare", "execute", "generate", "batching", "limits", "profile", "feature",
    "sampling", "stage", "answer",
)  # fmt: skip
_MODEL_FILES = {
    "onnx": "model.onnx", "python": "", "llama": "model.gguf", "whisper": "model.bin", "piper": "voice.onnx",
}  # fmt: skip
_CONTENTS = ("value", "text", "image", "audio", "chat")


def load_manifest(path: Path) -> Manifest:
    """Read the manifest of a package folder, or the manifest file itself.

    Raises `ManifestError` naming file, line, key, what was found and what would be right.
    """
    file = path / MANIFEST_FILE if path.is_dir() else path
    try:
        data = read_plain(file, TEXT_LIMIT_BYTES, links=True)
    except OSError as error:
        raise ManifestError(
            f"cannot be read: {error.strerror}", where=str(file), expected=f"a {MANIFEST_FILE}"
        ) from None
    except PackageError as error:
        raise ManifestError(error.message, where=error.where, expected=error.expected) from None
    return decode_manifest(data, file=str(file))


def decode_manifest(data: bytes, file: str = MANIFEST_FILE) -> Manifest:
    """Read a manifest from its bytes; `file` is what errors call it. Raises `ManifestError`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError("not valid UTF-8", where=f"{file}:{line}", expected="TOML in UTF-8") from None
    return parse_manifest(text, file=file)


def parse_manifest(text: str, file: str = MANIFEST_FILE) -> Manifest:
    """Read a manifest from its text; `file` is what errors call it.

    Raises `ManifestError`, or `ManifestProblems` when there are several.
    """
    document = Document(text, file)
    _check_format(document)
    inputs = tuple(_input(section) for section in document.tables("input"))
    manifest = Manifest(
        package=_package(document.section("package")),
        inputs=inputs,
        outputs=tuple(_output(section) for section in document.tables("output")),
        prepare=read_prepare(document, inputs),
        execute=_execute(document.section("execute")),
        generate=read_generate(document),
        batching=_batching(document.section("batching")),
        limits=_limits(document.section("limits")),
        profile=read_profile(document),
        features=read_features(document, inputs),
        sampling=read_sampling(document),
        stages=read_stages(document, name=NAME_PATTERN, version=VERSION_PATTERN),
        answer=read_answer(document),
        file=file,
        lines=document.lines,
    )
    check_manifest(manifest, document)
    document.raise_problems()
    return manifest


def _check_format(document: Document) -> None:
    top = document.section()
    found = top.take("format")
    if found is None:
        document.problem("format", "missing", expected=f"format = {FORMAT}, before the first table")
    elif found != FORMAT or isinstance(found, bool):
        document.problem(
            "format", "not a format this version of Onward reads", expected=str(FORMAT), found=shown(found)
        )
    for key in _TABLES:
        top.take(key)
    if not top.has("package"):
        document.problem("package", "missing", expected="[package] with name and version")
    for key in ("input", "output"):
        if not document.values.get(key):
            document.problem(key, "missing", expected=f"at least one [[{key}]]")
    top.close()


def _package(section: Section) -> PackageInfo:
    if not section.document.values.get("package"):
        return PackageInfo(name="", version="")
    package = PackageInfo(
        name=section.text("name", pattern=NAME_PATTERN, expected=_NAME_EXPECTED),
        version=section.text("version", pattern=VERSION_PATTERN, expected=_VERSION_EXPECTED),
        task=section.text("task", "tensor", pattern=NAME_PATTERN, expected=f"a word: {_NAME_EXPECTED}"),
        licence=section.text("licence", ""),
        description=section.text("description", ""),
    )
    section.close()
    return package


def _input(section: Section) -> Field:
    categories = section.names("categories", (), kind="categories")
    content = cast(Content, section.text("content", "value", choices=_CONTENTS))
    field = Field(
        name=section.name("name"),
        datatype=section.text("datatype", choices=NUMPY_OF_DATATYPE),
        shape=section.shape("shape"),
        content=content,
        units=section.text("units", ""),
        minimum=section.number("minimum"),
        maximum=section.number("maximum"),
        categories=categories,
        default=_default(section),
        required=section.flag("required", True),
        private=section.flag("private", False),
        description=section.text("description", ""),
    )
    section.close()
    return field


def _default(section: Section) -> float | str | bool | None:
    value = section.take("default")
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return value
    section.problem("default", "wrong type", expected="a number, text or boolean", found=shown(value))
    return None


def _output(section: Section) -> Field:
    field = Field(
        name=section.name("name"),
        datatype=section.text("datatype", choices=NUMPY_OF_DATATYPE),
        shape=section.shape("shape"),
        content=cast(Content, section.text("content", "value", choices=_CONTENTS)),
        units=section.text("units", ""),
        minimum=section.number("minimum"),
        maximum=section.number("maximum"),
        on_request=section.flag("on_request", False),
        private=section.flag("private", False),
        description=section.text("description", ""),
    )
    section.close()
    return field


def _execute(section: Section) -> Execute:
    backend = section.text("backend", "onnx", choices=tuple(_MODEL_FILES))
    entry = section.text(
        "entry", "", pattern=r"[A-Za-z_][A-Za-z0-9_]*:[A-Za-z_][A-Za-z0-9_]*", expected='"module:Class"'
    )
    execute = Execute(
        backend=cast(Backend, backend),
        file=section.file("file", _MODEL_FILES.get(backend, "")),
        entry=entry,
        instances=section.integer("instances", 1, minimum=1, maximum=1024),
        threads=section.integer("threads", Execute().threads, minimum=0, maximum=4096),
        providers=section.names("providers", ("cpu",), kind="execution providers"),
        context_tokens=section.integer("context_tokens", 0, minimum=0, maximum=1 << 24),
        slots=section.integer("slots", Execute().slots, minimum=1, maximum=256),
    )
    section.close()
    if backend == "python" and not entry:
        section.problem("entry", "missing", expected='"module:Class" for the python backend')
    if backend != "onnx" and section.has("providers"):
        section.problem("providers", "only for the onnx backend", expected='backend = "onnx", or no providers')
    if backend != "python" and entry:
        section.problem("entry", "only for the python backend", expected='backend = "python", or no entry')
    return execute


def _batching(section: Section) -> Batching:
    pad = section.document.table("batching.pad", section.take("pad") or {})
    batching = Batching(
        max_batch_size=section.integer("max_batch_size", Batching().max_batch_size, minimum=1, maximum=1 << 20),
        max_queue_delay_us=section.integer("max_queue_delay_us", 0, minimum=0, maximum=10_000_000),
        mode=cast(
            Literal["throughput", "invariant"],
            section.text("mode", "throughput", choices=("throughput", "invariant")),
        ),
        pad=_pad(pad),
    )
    section.close()
    return batching


def _pad(section: Section) -> Mapping[str, float]:
    pad: dict[str, float] = {}
    for name, value in section.values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            section.problem(name, "wrong type", expected="the number to pad with", found=shown(value))
        else:
            pad[name] = value
    return pad


def _limits(section: Section) -> Limits:
    usual = Limits()
    audio_s = section.number("audio_s")
    if audio_s is not None and audio_s <= 0:
        section.problem("audio_s", "out of range", expected="a number of seconds above 0", found=shown(audio_s))
    limits = Limits(
        audio_s=usual.audio_s if audio_s is None else audio_s,
        **{
            name: section.integer(name, getattr(usual, name), minimum=1)
            for name in (
                "body_bytes",
                "rows",
                "pixels",
                "tokens",
                "characters",
                "deadline_ms",
                "queue_rows",
                "queue_tokens",
            )
        },
    )
    section.close()
    return limits


def is_name(text: str) -> bool:
    """Whether `text` may name a package: an identifier, never a path."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def is_version(text: str) -> bool:
    """Whether `text` is a version: one to four dotted numbers."""
    return re.fullmatch(VERSION_PATTERN, text) is not None
