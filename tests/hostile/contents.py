"""Other files of packages made to do harm: examples, tokenizers, language models, pictures."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import write_shade
from tests.hostile.cases import case, locked, named, tiny

# --- examples

_GOOD = {"name": "e", "input": {"x": [1, 2, 3]}, "tensors": {"y": [[3, 5, 7]]}}
_FILE = json.dumps(_GOOD | {"input": {"x": {"file": "model.bin"}}}).encode() + b"\n"
_LINES: dict[str, Callable[[], bytes]] = {
    "deep": lambda: b'{"input": ' + b"[" * 1_000_000,
    "lists": lambda: b'{"input": {"x": [' + b"[]," * 5_000_000 + b'[]]}, "answer": {}}',
    "objects": lambda: b'{"input": {"x": [' + b"{}," * 5_000_000 + b'{}]}, "answer": {}}',
    "keys": lambda: b'{"input": {' + b",".join(b'"%d":1' % number for number in range(2_500_000)) + b"}}",
    "digits": lambda: b'{"input": {"x": ' + b"9" * 1_000_000 + b'}, "answer": {}}',
    "long": lambda: b" " * (65 << 20),
    "path": lambda: json.dumps(_GOOD | {"input": {"x": {"file": "../../../../etc/passwd"}}}).encode(),
    "path_absolute": lambda: json.dumps(_GOOD | {"input": {"x": {"file": "/etc/passwd"}}}).encode(),
}
for _name, _made in _LINES.items():

    def _examples(place: Path, made: Callable[[], bytes] = _made) -> Path:
        return tiny(place, {"examples.jsonl": made()})

    named(f"examples_{_name}", _examples, "INVALID_PACKAGE")


@case("INVALID_PACKAGE")
def examples_that_name_a_file_again_and_again(place: Path) -> Path:
    return tiny(place, {"examples.jsonl": _FILE * 300, "model.bin": bytes(1 << 20)})


# --- tokenizers


def _tokenizer(**parts: Any) -> bytes:
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1}}  # fmt: skip
    model |= parts.pop("model", {})
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model, **parts}).encode()


def _sequence(*rules: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(rules)}


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


_charsmap = struct.pack("<I", 4) + bytes(4) + b"x" * 100_000 + b"\0"
_word = r"\b(?:a|b)\b"
_TOKENIZERS = {
    "replace": _tokenizer(normalizer=_replace({"String": "a"}, "a" * 1_000_000)),
    "replace_again": _tokenizer(normalizer=_sequence(*[_replace({"String": "a"}, "aa")] * 40)),
    "replace_nothing": _tokenizer(normalizer=_sequence(*[_replace({"Regex": ""}, "a")] * 40)),
    "replace_words": _tokenizer(normalizer=_sequence(*[_replace({"Regex": _word}, "a a")] * 40)),
    "prepend": _tokenizer(normalizer={"type": "Prepend", "prepend": "a" * 1_000_000}),
    "nested": _tokenizer(normalizer=_sequence(_sequence(_sequence(*[_replace({"String": "a"}, "aa")] * 40)))),
    "table": _tokenizer(
        normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(_charsmap).decode()}
    ),
    "table_of_nothing": _tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "x"}),
    "words": _tokenizer(model={"max_input_chars_per_word": 1 << 40}),
    "pattern": _tokenizer(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a" * 100_000}, "behavior": "Isolated", "invert": False}
    ),
    "rules": _tokenizer(normalizer=_sequence(*[{"type": "NFC"}] * 1000)),
    "around": _tokenizer(post_processor={
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"[X]": {"id": "[X]", "ids": [0] * 100_000, "tokens": ["[UNK]"] * 100_000}},
    }),
    "around_text": _tokenizer(post_processor={
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 8, "pair": [],
        "special_tokens": {},
    }),
    "untyped": _tokenizer(normalizer={"pattern": {"String": "a"}, "content": "a" * 1_000_000}),
    "bytes": _tokenizer(normalizer=_sequence(*[{"type": "ByteLevel"}] * 24)),
    "deep": b'{"model": {}, "normalizer": ' + b"[" * 1_000_000,
    "text": b"no tokenizer",
    "empty": b"",
    "long": b" " * (65 << 20),
}  # fmt: skip
for _name, _data in _TOKENIZERS.items():

    def _with_tokenizer(place: Path, data: bytes = _data) -> Path:
        return tiny(place, {"tokenizer.json": data})

    named(f"tokenizer_{_name}", _with_tokenizer, "INVALID_PACKAGE")

# --- language models

_LLM = """format = 1
[package]
name = "llm"
version = "1.0.0"
[[input]]
name = "messages"
datatype = "BYTES"
content = "chat"
[[output]]
name = "text"
datatype = "BYTES"
content = "text"
[[prepare]]
step = "prompt"
messages = "messages"
[execute]
backend = "llama"
file = "model.gguf"
"""


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _gguf(tensors: int = 0, keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def _tensor(dims: list[int], kind: int = 0, offset: int = 0, name: bytes = b"w") -> bytes:
    return _text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


_ARRAY = _text(b"k") + struct.pack("<I", 9)
_MODELS = {
    "keys": _gguf(keys=1 << 60),
    "tensors": _gguf(tensors=1 << 60),
    "text": _gguf(keys=1, rest=struct.pack("<Q", 1 << 60)),
    "array": _gguf(keys=1, rest=_ARRAY + struct.pack("<IQ", 8, 1 << 60)),
    "array_of_numbers": _gguf(keys=1, rest=_ARRAY + struct.pack("<IQ", 10, 1 << 61)),
    "array_of_arrays": _gguf(keys=1, rest=_ARRAY + struct.pack("<IQ", 9, 1 << 20)),
    "empty_texts": _gguf(keys=4, rest=(_ARRAY + struct.pack("<IQ", 8, 1 << 21) + bytes(8 << 21)) * 3),
    "dimensions": _gguf(tensors=1, rest=_tensor([1] * 5)),
    "size": _gguf(tensors=1, rest=_tensor([1 << 40])),
    "overflow": _gguf(tensors=1, rest=_tensor([1 << 32, 1 << 32, 2])),
    "nothing": _gguf(tensors=1, rest=_tensor([0])),
    "kind": _gguf(tensors=1, rest=_tensor([1], kind=1000)),
    "place": _gguf(tensors=1, rest=_tensor([1], offset=1 << 60)),
    "crooked": _gguf(tensors=1, rest=_tensor([1], offset=1)),
    "name": _gguf(tensors=1, rest=_tensor([1], name=b"w" * 5000)),
    "alignment": _gguf(keys=1, rest=_text(b"general.alignment") + struct.pack("<II", 4, 0)),
    "alignment_text": _gguf(keys=1, rest=_text(b"general.alignment") + struct.pack("<I", 8) + _text(b"x")),
    "other": b"GGML" + bytes(100),
    "empty": b"",
}
for _name, _data in _MODELS.items():

    def _with_model(place: Path, data: bytes = _data) -> Path:
        return tiny(place, {"model.gguf": data}, manifest=_LLM)

    named(f"gguf_{_name}", _with_model, "INVALID_PACKAGE")

# --- pictures


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *more: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + _chunk(b"IDAT", zlib.compress(bytes(100))) + _chunk(b"IEND", b"")
    )


_zeros = zlib.compress(bytes(100 << 20))
_PICTURES = {
    "large": _png(60_000, 60_000),
    "wide": _png((1 << 31) - 1, 1),
    "texts": _png(10, 10, _chunk(b"zTXt", b"k\0\0" + _zeros)),
    "profile": _png(10, 10, _chunk(b"iCCP", b"k\0\0" + _zeros)),
    "short": _png(100, 100),
    "pixels": b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", _zeros) + _chunk(b"IEND", b""),
    "bmp": b"BM" + struct.pack("<IHHIIIIHHIIIIII", 100, 0, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6),
    "tiff": b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65535) + bytes(12 * 1000),
}  # fmt: skip


def _picture(place: Path, data: bytes) -> Path:
    write_shade(place / "p")
    example = {"name": "e", "input": {"image": {"base64": base64.b64encode(data).decode()}}, "answer": {}}
    (place / "p" / "examples.jsonl").write_text(json.dumps(example) + "\n")
    return locked(place / "p")


for _name, _data in _PICTURES.items():

    def _with_picture(place: Path, data: bytes = _data) -> Path:
        return _picture(place, data)

    _codes = ("opened", "CORRUPT_MEDIA") if _name in ("pixels", "texts", "profile") else ("TOO_LARGE", "CORRUPT_MEDIA")
    named(f"picture_{_name}", _with_picture, *_codes)
