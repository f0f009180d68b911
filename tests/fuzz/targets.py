"""What is fuzzed: functions that take any bytes and may refuse them, but only in the ways they promise.

A target raises where something else happens: another exception, an answer that is wrong, a status of 500.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from onward.errors import InputError, ManifestError, OnwardError, PackageError, RefusedGraph, SignatureRefused
from onward.package.archive import unpack
from onward.package.attestation import files_in, read_attestation
from onward.package.digest import parse_lock
from onward.package.gguf import check_gguf
from onward.package.graphcheck import check_graph_bytes
from onward.package.importers import treeoriginal
from onward.package.importers.plainyaml import read_plain_yaml
from onward.package.importers.textformat import read_text_format
from onward.package.importers.treefile import draft_of_tree_file
from onward.package.importers.ubjson import read_ubjson
from onward.package.manifest import decode_manifest, dump_manifest, parse_manifest
from onward.package.records import PackageInfo
from onward.package.repository import Repository
from onward.package.tokenizercheck import check_tokenizer
from onward.prepare.image import decode_image
from onward.prepare.text import TokenizePreparation
from onward.runners.serve.app import make_app
from onward.runners.serve.models import Models
from onward.runners.serve.oip import InferDecoder, InferRequest
from onward.types import Field, TensorSpec

Target = Callable[[bytes], None]
MAX_PIXELS = 1 << 20
_BOUNDARY = "b"
_PLACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


def manifest(data: bytes) -> None:
    """A manifest; what is read of one is written so that it reads the same."""
    try:
        read = decode_manifest(data)
    except ManifestError as error:
        str(error)
        return
    again = parse_manifest(dump_manifest(read))
    plain = {"file": "", "lines": {}}
    assert replace(again, **plain) == replace(read, **plain)


def lock(data: bytes) -> None:
    """An `onward.lock`."""
    with suppress(PackageError):
        parse_lock(data, Path("p"))


def signature(data: bytes) -> None:
    """An `onward.sig`, as if it were signed."""
    with suppress(SignatureRefused):
        files_in(read_attestation(data, where="s").payload, where="s")


@cache
def _decoders() -> tuple[InferDecoder, ...]:
    numbers = [TensorSpec(name="x", datatype="FP32", shape=(-1, 3))]
    kinds = ("BOOL", "UINT8", "INT64", "FP16", "BYTES")
    several = [TensorSpec(name=f"x{index}", datatype=kind, shape=(-1, -1)) for index, kind in enumerate(kinds)]
    fields = [TensorSpec(name="f", datatype="BYTES", shape=(-1,))]
    return InferDecoder(numbers, [], ["y"], max_rows=16), InferDecoder(several, fields, ["y", "z"], max_rows=16)


def _request(decoder: InferDecoder, body: bytes, length: int | None) -> InferRequest | None:
    try:
        request = decoder.decode(body, length)
    except InputError as error:
        str(error)
        return None
    assert 0 <= request.rows <= 16
    for column in request.columns.values():
        assert len(column) % max(request.rows, 1) == 0
    return request


def v2_json(data: bytes) -> None:
    """A V2 body in JSON."""
    for decoder in _decoders():
        _request(decoder, data, None)


def v2_binary(data: bytes) -> None:
    """A V2 body with binary tensors, its first two bytes the length of the JSON part; read twice, it is the same."""
    length, body = int.from_bytes(data[:2], "little", signed=True), data[2:]
    for decoder in _decoders():
        first = _request(decoder, body, length)
        again = _request(decoder, body, length)
        assert (first is None) == (again is None)
        if first is not None and again is not None:
            assert first.columns.keys() == again.columns.keys()
            for name, column in first.columns.items():
                one, other = np.asarray(column), np.asarray(again.columns[name])
                assert one.shape == other.shape and one.dtype == other.dtype
                equal = one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()
                assert equal


@cache
def _server() -> Callable[[bytes], int]:
    """Sends a multipart body to a server's ASGI application, and gives the status of the answer."""
    from tests.acceptance.conftest import write_shade

    root = Path(tempfile.mkdtemp(prefix="onward-fuzz-"))
    write_shade(root / "shade" / "1.0.0")
    loop = asyncio.new_event_loop()
    models = Models(Repository(root), ThreadPoolExecutor(max_workers=1))
    loop.run_until_complete(models.scan())
    app = make_app(models)

    def send(body: bytes) -> int:
        kind = f"multipart/form-data; boundary={_BOUNDARY}".encode()
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"host", b"here")]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
                 "path": "/models/shade", "raw_path": b"/models/shade", "query_string": b"", "root_path": "",
                 "scheme": "http", "headers": headers, "client": ("here", 1), "server": ("here", 2)}  # fmt: skip
        sent: list[Any] = []
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.Event().wait()

        async def keep(message: Any) -> None:
            sent.append(message)

        loop.run_until_complete(asyncio.wait_for(app(scope, receive, keep), 10))
        return int(sent[0]["status"])

    return send


def multipart(data: bytes) -> None:
    """A form with a picture in it."""
    status = _server()(data)
    assert status < 500, f"status {status}"


def image(data: bytes) -> None:
    """The file of a picture."""
    try:
        pixels = decode_image(data, where="image", max_pixels=MAX_PIXELS)
    except InputError as error:
        str(error)
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS


def graph(data: bytes) -> None:
    """An ONNX graph."""
    with suppress(RefusedGraph):
        check_graph_bytes(data)


@cache
def _file(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix="onward-fuzz-", dir=_PLACE)) / name


def gguf(data: bytes) -> None:
    """A GGUF file."""
    file = _file("model.gguf")
    file.write_bytes(data)
    with suppress(PackageError):
        check_gguf(file)


def archive(data: bytes) -> None:
    """An archive of a package."""
    file = _file("p.onward")
    file.write_bytes(data)
    try:
        folder = unpack(file, file.parent / "cache")
    except PackageError:
        return
    assert folder.parent == file.parent / "cache" / "packages"


def tokenizer(data: bytes) -> None:
    """A tokenizer's file; what is let through must load and tokenise, or say why not."""
    file = _file("tokenizer.json")
    file.write_bytes(data)
    text = Field(name="text", datatype="BYTES", content="text")
    try:
        check_tokenizer(file)
        step = TokenizePreparation(file, text, max_tokens=64, outputs=("ids",))
        for said in ("A word, and another. " + "a" * 200, "Ünïcöde ﷺ 語 " * 70):
            step({"text": said})
    except OnwardError:
        pass


for _library in ("catboost", "lightgbm", "xgboost"):  # imported late by `trees`, when nobody watches what they reach
    import_module(f"onward.package.importers.{_library}")


def trees(data: bytes) -> None:
    """A file of boosted trees, on a machine where its library is not installed."""
    file = _file("model.json")
    file.write_bytes(data)
    with patch.object(treeoriginal, "is_installed", return_value=False), suppress(OnwardError):
        draft_of_tree_file(file, PackageInfo(name="trees", version="1.0.0"))


def ubjson(data: bytes) -> None:
    """Universal Binary JSON."""
    with suppress(PackageError):
        read_ubjson(data)


def text_format(data: bytes) -> None:
    """A `config.pbtxt`."""
    with suppress(PackageError):
        list(read_text_format(data.decode(errors="replace"), "config.pbtxt").unread())


def plain_yaml(data: bytes) -> None:
    """An `MLmodel`."""
    with suppress(PackageError):
        read_plain_yaml(data.decode(errors="replace"), "MLmodel")


TARGETS: dict[str, Target] = {
    one.__name__: one
    for one in (manifest, v2_json, v2_binary, multipart, image, lock, signature, graph, gguf, archive, tokenizer,
                trees, ubjson, text_format, plain_yaml)
}  # fmt: skip
LONGEST = ("manifest", "v2_json", "v2_binary", "multipart", "image")
"""What anybody can send, or has to be read first: fuzzed for the whole time, the others for a fifth of it."""


def seconds_of(target: str) -> int:
    """How long a target is fuzzed: `ONWARD_FUZZ_S` seconds, ten minutes unless it is set."""
    whole_s = int(os.environ.get("ONWARD_FUZZ_S", "600"))
    return whole_s if target in LONGEST else max(whole_s // 5, 1)
