"""The requests that a workload sends in each server's dialect, and the answers that are right.

Dialects: `v2` (Open Inference Protocol, its binary tensor extension for the binary form), `onward` (the same, and the
plain route for photos and texts), `plain` (V2 JSON; raw float32, JPEG or a JSON object as the body otherwise),
`msgpack` (one msgpack binary value).
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.layout import BODIES
from bench.materials import photos, texts
from bench.peers.contender import Served
from bench.peers.inference import Model

BODY_COUNT = 64
TENSOR_TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-3  # of a probability; a padded batch of texts moves the last digits

Item = Any  # a row (np.ndarray), an image file (bytes) or a text (str), as the workload's form says
Answer = np.ndarray | list[tuple[str, float]]
Decode = Callable[[bytes, Mapping[str, str]], Answer]
Requests = tuple[dict[str, str], list[bytes], Decode]


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A path, its headers, the rotating bodies, and how to read and judge what comes back."""

    path: str
    headers: dict[str, str]
    bodies: list[bytes]
    expected: list[Answer]
    decode: Decode

    def written(self, folder_name: str) -> Path:
        """Write the bodies where the load generator's script reads them; return that folder."""
        folder = BODIES / folder_name
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        (folder / "headers.txt").write_text("\n".join(lines) + "\n", "utf-8")
        for index, body in enumerate(self.bodies):
            (folder / f"body-{index}").write_bytes(body)
        return folder


def items_of(served: Served) -> list[Item]:
    """Return the distinct inputs of a workload: rows (1, columns), JPEG files or texts."""
    if served.form == "image":
        return list(photos(BODY_COUNT, served.folder))
    if served.form == "text":
        return list(texts(BODY_COUNT))
    columns = {"mlp-small": 30, "mlp-large": 384}[served.name]
    rows = np.random.default_rng(2026).standard_normal((BODY_COUNT, 1, columns)).astype(np.float32)
    return list(rows)


def answers_of(served: Served, items: list[Item]) -> list[Answer]:
    """Compute the right answers one by one with onnxruntime in this process."""
    model = Model(served.folder)
    if served.form == "image":
        return [model.ranked(model.run([model.decoder.image(item)])[0]) for item in items]
    if served.form == "text":
        return [model.ranked(model.run([model.decoder.text(item)])[0]) for item in items]
    return [model.matrix(item)[0] for item in items]


def agree(expected: Answer, given: Answer) -> bool:
    """Tell whether two answers are the same up to rounding (relative above 1, absolute below)."""
    if isinstance(expected, np.ndarray):
        if not isinstance(given, np.ndarray) or given.shape != expected.shape:
            return False
        return bool(np.all(np.abs(given - expected) <= TENSOR_TOLERANCE * np.maximum(1.0, np.abs(expected))))
    if isinstance(given, np.ndarray) or not given:
        return False
    scores = np.array([score for _, score in expected]) - np.array([score for _, score in given[: len(expected)]])
    return expected[0][0] == given[0][0] and bool(np.all(np.abs(scores) <= SCORE_TOLERANCE))


def exchange_for(served: Served, dialect: str) -> Exchange:
    """Put a workload's inputs into requests of one dialect."""
    items, expected = _prepared(served)
    make = {"json": _json_rows, "binary": _binary_rows, "image": _labelled, "text": _labelled}[served.form]
    headers, bodies, decode = make(items, dialect, served.form)
    plain_route = dialect == "onward" and served.form in {"image", "text"}
    path = f"/models/{served.name}" if plain_route else f"/v2/models/{served.name}/infer"
    return Exchange(path=path, headers=headers, bodies=bodies, expected=expected, decode=decode)


@functools.lru_cache(maxsize=8)
def _prepared(served: Served) -> tuple[list[Item], list[Answer]]:
    """Inputs and right answers, made once for all contenders and rounds."""
    items = items_of(served)
    return items, answers_of(served, items)


def _json_rows(items: list[Any], dialect: str, form: str) -> Requests:
    return {"Content-Type": "application/json"}, [_v2_json(item) for item in items], _read_v2_json


def _binary_rows(items: list[Any], dialect: str, form: str) -> Requests:
    raw = [item.tobytes() for item in items]
    if dialect == "plain":
        return {"Content-Type": "application/octet-stream"}, raw, _read_raw
    if dialect == "msgpack":
        return {"Content-Type": "application/msgpack"}, [msgspec.msgpack.encode(row) for row in raw], _read_msgpack
    rows: dict[str, Any] = {"name": "x", "shape": list(items[0].shape), "datatype": "FP32"}
    rows["parameters"] = {"binary_data_size": items[0].nbytes}
    wanted = {"name": "y", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [rows], "outputs": [wanted]}).encode()
    return _extension_headers(header), [header + row for row in raw], _read_v2_binary


def _labelled(items: list[Any], dialect: str, form: str) -> Requests:
    if dialect == "v2" and form == "image":
        return _v2_photos(items)
    if dialect == "v2":
        cells = [{"name": "item", "shape": [1, 1], "datatype": "BYTES", "data": [item]} for item in items]
        bodies = [json.dumps({"inputs": [cell]}).encode() for cell in cells]
        return {"Content-Type": "application/json"}, bodies, _read_v2_labels
    if form == "image":
        return {"Content-Type": "image/jpeg"}, list(items), _read_labels
    return {"Content-Type": "application/json"}, [json.dumps({"text": item}).encode() for item in items], _read_labels


def _v2_photos(photos_: list[bytes]) -> Requests:
    """V2 binary strings (length, bytes); the JSON part is padded so that one header fits every photo."""
    headers = []
    for photo in photos_:
        cell = {"name": "item", "shape": [1, 1], "datatype": "BYTES"}
        sized = cell | {"parameters": {"binary_data_size": len(photo) + 4}}
        headers.append(json.dumps({"inputs": [sized]}).encode())
    longest = max(map(len, headers))
    bodies = [
        header.ljust(longest) + struct.pack("<I", len(photo)) + photo
        for header, photo in zip(headers, photos_, strict=True)
    ]
    return _extension_headers(b" " * longest), bodies, _read_v2_labels


def _extension_headers(header: bytes) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}


def _v2_json(row: np.ndarray) -> bytes:
    data = [float(str(value)) for value in row.ravel()]  # the shortest digits that give the same float32
    tensor = {"name": "x", "shape": list(row.shape), "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def _read_v2_json(body: bytes, headers: Mapping[str, str]) -> Answer:
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32)


def _read_v2_binary(body: bytes, headers: Mapping[str, str]) -> Answer:
    lengths = [int(value) for name, value in headers.items() if name.lower() == "inference-header-content-length"]
    return np.frombuffer(body[lengths[0] :], np.float32)


def _read_raw(body: bytes, headers: Mapping[str, str]) -> Answer:
    return np.frombuffer(body, np.float32)


def _read_msgpack(body: bytes, headers: Mapping[str, str]) -> Answer:
    return np.frombuffer(msgspec.msgpack.decode(body, type=bytes), np.float32)


def _read_v2_labels(body: bytes, headers: Mapping[str, str]) -> Answer:
    tensors = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
    return list(zip(tensors["label"], tensors["score"], strict=True))


def _read_labels(body: bytes, headers: Mapping[str, str]) -> Answer:
    answer = json.loads(body)
    answer = answer.get("answer", answer)  # Onward's envelope names package, version and request beside it
    if "labels" in answer:
        return [(one["label"], float(one["score"])) for one in answer["labels"]]
    return [(answer["label"], float(answer["score"]))]
