"""The local runner: one package, here and now, for a person at a terminal or the next program in a pipe."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from onward.errors import InputError, MalformedBody, NotFound, PackageError, UsageError
from onward.execute.python import specs_of
from onward.generate.answer import readable, readable_decision
from onward.opening import open_pipeline
from onward.package.assembly import signature_of_folder
from onward.package.digest import read_lock
from onward.package.manifest import MANIFEST_FILE, POLICY_FILE, Manifest
from onward.package.pack import pack as pack_source
from onward.package.package import Package, is_package, open_package
from onward.package.repository import Repository
from onward.package.sources import fetch, is_source
from onward.package.trust import trusted_keys, verify_signature
from onward.runners import terminal
from onward.streaming import STREAMING_BACKENDS, StreamingPipeline
from onward.types import Blob, CancelToken, Field, Input, Item, Result, TensorSpec

if TYPE_CHECKING:  # only where a package has a policy
    from onward.decide.rules import Rules

DEFAULT_REPOSITORY = Path("var/repository")
_NEVER_JSON = frozenset({
    ".txt", ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".wav", ".flac", ".ogg", ".mp3", ".opus",
})  # fmt: skip


def run(
    package: str, inputs: Sequence[str], *, outputs: tuple[str, ...], as_json: bool, save: Path | None = None
) -> None:
    """Answer each input; one JSON line each, or a readable block each in a terminal.

    With `save`, the answer's sound or picture is written there instead.
    """
    if save is not None and len(inputs) != 1:
        raise UsageError("one file holds one answer", where="--save", expected="one input", found=str(len(inputs)))
    pretty = sys.stdout.isatty() and not as_json
    with open_pipeline(find(package), check=False, repositories=[DEFAULT_REPOSITORY]) as pipeline:
        for name, value in read_inputs(inputs, pipeline.manifest.inputs):
            started = time.perf_counter()
            if save is not None:
                _save(pipeline(value, outputs=outputs), save)
                continue
            if pretty and isinstance(pipeline, StreamingPipeline):
                events = pipeline.stream(value, CancelToken(), outputs=outputs)
                terminal.show_stream(name, events, started)
                continue
            result = pipeline(value, outputs=outputs)
            elapsed_s = time.perf_counter() - started
            if pretty:
                terminal.show_answer(name, result, elapsed_s)
            else:
                sys.stdout.buffer.write(msgspec.json.encode(plain_result(name, result)) + b"\n")
                sys.stdout.buffer.flush()


def _save(result: Result, file: Path) -> None:
    blob = next((value for value in result.answer.values() if isinstance(value, Blob)), None)
    if blob is None:
        raise UsageError("this package answers with no file", where="--save", expected="a package of sound or pictures")
    file.write_bytes(blob.data)


def inspect(package: str, *, as_json: bool) -> None:
    """Show a package without running it."""
    opened = open_package(find(package))
    tensor_inputs, tensor_outputs = _tensors(opened)
    description = {
        "package": msgspec.to_builtins(opened.manifest.package) | {"digest": opened.id.digest},
        "inputs": [_described(field) for field in opened.manifest.inputs],
        "outputs": [_described(field) for field in opened.manifest.outputs],
        "tensors": {
            "inputs": [msgspec.to_builtins(spec) for spec in tensor_inputs],
            "outputs": [msgspec.to_builtins(spec) for spec in tensor_outputs],
        },
        "steps": _steps(opened.manifest),
        "batching": msgspec.to_builtins(opened.manifest.batching),
        "limits": msgspec.to_builtins(opened.manifest.limits),
    }
    policy = check_policy(opened.folder, opened.manifest)
    if policy is not None:
        description["policy"] = policy.describe()
    if sys.stdout.isatty() and not as_json:
        terminal.show_package(description)
    else:
        print(msgspec.json.encode(description).decode())  # noqa: T201


def _steps(manifest: Manifest) -> dict[str, Any]:
    if manifest.stages:
        return {"stages": [{"step": "stage"} | msgspec.to_builtins(stage) for stage in manifest.stages]}
    return {
        "prepare": [{"step": step.step} | msgspec.to_builtins(step) for step in manifest.prepare],
        "execute": msgspec.to_builtins(manifest.execute),
        "generate": [{"step": step.step} | msgspec.to_builtins(step) for step in manifest.generate],
    }


def verify(package: str, *, as_json: bool) -> None:
    """Check everything that can be checked about a package on this machine; raises what is wrong."""
    started = time.perf_counter()
    with open_pipeline(find(package), check=False, repositories=[DEFAULT_REPOSITORY]) as pipeline:
        examples = pipeline.check_examples()
        identity, providers = pipeline.package.id, list(getattr(pipeline, "providers", ()))
        keys = trusted_keys()
        signed_by = str(verify_signature(pipeline.package.folder, keys).key) if keys else ""
    report = {
        "name": identity.name, "version": identity.version, "digest": identity.digest, "examples": examples,
        "seconds": round(time.perf_counter() - started, 3), "providers": providers, "signed_by": signed_by,
    }  # fmt: skip
    if sys.stdout.isatty() and not as_json:
        terminal.show_verified(report)
    else:
        print(msgspec.json.encode(report).decode())  # noqa: T201


def compare(package: str, runners: Sequence[str], inputs: int, *, as_json: bool) -> None:
    """Show how far runners' answers are apart. Raises `RunnersDisagree`, after the table, where it is too far."""
    from onward.runners.agreement.verifying import agreements, check

    rows = agreements(find(package), runners, inputs)
    if sys.stdout.isatty() and not as_json:
        terminal.show_agreement(rows)
    else:
        for row in rows:
            print(msgspec.json.encode(row).decode())  # noqa: T201
    check(rows, package=package)


def pack(source: Path, out: Path, *, repository: Path | None = None, **options: Any) -> None:
    """Pack a source and say what came out. `repository` is where the packages of stages are (None: the default)."""
    roots = [repository or DEFAULT_REPOSITORY]
    package = pack_source(source, out, run_package=run_package, check=check_policy, repositories=roots, **options)
    parity = read_lock(package.folder).parity
    report = {
        "name": package.id.name, "version": package.id.version, "digest": package.id.digest, "path": str(out),
        "compared": bool(parity.get("compared")), "rows": parity.get("rows", 0),
    }  # fmt: skip
    if sys.stdout.isatty():
        terminal.show_packed(report)
    else:
        print(msgspec.json.encode(report).decode())  # noqa: T201


def run_package(folder: Path, items: Sequence[Item]) -> Sequence[Result]:
    """How packing runs the finished package: as every runner does."""
    with open_pipeline(folder, repositories=[DEFAULT_REPOSITORY]) as pipeline:
        return pipeline.batch(items)


def check_policy(folder: Path, manifest: Manifest) -> Rules | None:
    """How packing checks a policy: as every runner reads it. None where there is none, and nothing is imported."""
    if not (folder / POLICY_FILE).is_file():
        return None
    from onward.decide.rules import load_policy

    return load_policy(folder, manifest)


def find(package: str) -> Path:
    """A package by its path, the folder of its versions, its name in the default repository, or where it is fetched."""
    if is_source(package):
        return fetch(package)
    path = Path(package)
    if is_package(path):
        return path
    if (path / MANIFEST_FILE).is_file():
        raise PackageError("this folder is not packed yet", where=package, expected="onward pack FOLDER OUT")
    name, _, version = package.partition("==")
    root = DEFAULT_REPOSITORY
    if path.is_dir():
        root, name, version = path.resolve().parent, path.resolve().name, ""
    elif path.exists() or not root.is_dir():
        raise NotFound("no such package", where=package, expected="a package folder, an .onward archive or a name")
    return Repository(root).path(name, version)


def read_inputs(arguments: Sequence[str], fields: Sequence[Field]) -> Iterator[tuple[str, Input]]:
    """Each input with a name to show: JSON, files and text become items."""
    for argument in arguments:
        if argument == "-":
            yield from _of_bytes("standard input", sys.stdin.buffer.read(), "", fields)
        elif argument[:1] in ("{", "[") and _is_read_as_json(argument.encode("utf-8", "surrogateescape"), fields):
            yield from _of_json(argument, argument.encode("utf-8", "surrogateescape"), fields)
        elif _is_file(argument):
            path = Path(argument)
            yield from _of_bytes(path.name, path.read_bytes(), path.suffix.lower(), fields)
        elif (field := _written(fields)) is not None:
            yield argument, {field.name: argument}
        else:
            raise InputError(
                "not a file, and this package does not take bare text", where=argument,
                expected=f"JSON with {', '.join(field.name for field in fields[:8])}, or an existing file",
            )  # fmt: skip


def _tensors(package: Package) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
    """The tensors of a package's batched graphs, found without running any of its code."""
    if package.manifest.stages or package.manifest.execute.backend in STREAMING_BACKENDS:
        return (), ()
    if package.manifest.execute.backend == "python":
        return specs_of(package.manifest)
    signature = signature_of_folder(package.manifest, package.folder)
    return signature.tensor_inputs, signature.tensor_outputs


def plain_result(name: str, result: Result) -> Mapping[str, Any]:
    """A result as one JSON object: what HTTP answers, with the input's name for the request's."""
    body: dict[str, Any] = {"input": name, "answer": readable(result)}
    if result.decision is not None:
        body["decision"] = readable_decision(result.decision)
    return body | {"package": result.package.name, "version": result.package.version}


def _of_bytes(name: str, data: bytes, suffix: str, fields: Sequence[Field]) -> Iterator[tuple[str, Input]]:
    media, text = _only(fields, "image", "audio"), _written(fields)
    if suffix == ".jsonl":
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield from _of_json(f"{name}:{number}", line, fields)
    elif suffix == ".json" or (suffix not in _NEVER_JSON and _is_read_as_json(data, fields)):
        yield from _of_json(name, data, fields)
    elif media is not None and suffix != ".txt":
        yield name, {media.name: data}
    elif text is not None:
        try:
            yield name, {text.name: data.decode().rstrip("\n")}
        except UnicodeDecodeError as error:
            raise MalformedBody(where=name, expected="text in UTF-8", found=str(error)) from None
    else:
        raise InputError("this package takes neither text nor files", where=name, expected="JSON")


def _is_read_as_json(data: bytes, fields: Sequence[Field]) -> bool:
    """Whether to read what begins as JSON as JSON; where the package takes text, only what is JSON to its end."""
    if data.lstrip()[:1] not in (b"{", b"["):
        return False
    if _written(fields) is None:
        return True
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _of_json(name: str, data: bytes, fields: Sequence[Field]) -> Iterator[tuple[str, Input]]:
    shown = name if len(name) <= 60 else name[:57] + "..."
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(where=shown, expected="JSON", found=str(error)) from None
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield f"{shown}[{index}]", _with_files(item, fields)
    else:
        yield shown, _with_files(value, fields)


def _with_files(value: Any, fields: Sequence[Field]) -> Any:
    """Files inside JSON travel as base64, bare or as a data URL."""
    if not isinstance(value, dict):
        return value
    media = {field.name for field in fields if field.content in ("image", "audio")}
    return {name: _bytes_of(name, part) if name in media else part for name, part in value.items()}


def _bytes_of(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except ValueError as error:
        raise MalformedBody(where=name, expected="base64", found=str(error)) from None


def _only(fields: Sequence[Field], *contents: str) -> Field | None:
    found = [field for field in fields if field.content in contents]
    return found[0] if len(found) == 1 else None


def _written(fields: Sequence[Field]) -> Field | None:
    """The field that a bare text is for; in a chat, it is what the person says."""
    return _only(fields, "text", "chat")


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).is_file()
    except (OSError, ValueError):  # longer than a file name may be, or with a NUL
        return False


def _described(field: Field) -> Mapping[str, Any]:
    values = {key: value for key, value in msgspec.to_builtins(field).items() if value not in (None, "", [], ())}
    return {key: value for key, value in values.items() if key not in ("on_request", "private") or value}
