"""What a GGUF file says of itself is read without loading it; what is no GGUF is named as such."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from onward.errors import PackageError
from onward.package.gguf import read_gguf


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def gguf(*entries: bytes, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, 0, len(entries)) + b"".join(entries)


WHOLE = gguf(
    entry("general.architecture", 8, text("llama")),
    entry("general.name", 8, text("Tiny")),
    entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text("a") + text("bc") + text("")),
    entry("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 2) + struct.pack("<ff", 1, 2)),
    entry("llama.context_length", 4, struct.pack("<I", 2048)),
    entry("general.license", 8, text("apache-2.0")),
    entry("tokenizer.ggml.add_bos_token", 7, b"\x01"),
)


def written(folder: Path, data: bytes) -> Path:
    file = folder / "model.gguf"
    file.write_bytes(data)
    return file


def test_metadata_is_read_and_arrays_are_passed_over(tmp_path: Path) -> None:
    facts = read_gguf(written(tmp_path, WHOLE))
    assert (facts.architecture, facts.name, facts.licence) == ("llama", "Tiny", "apache-2.0")
    assert facts.context_tokens == 2048 and facts.chat_template == ""
    assert facts.values["tokenizer.ggml.add_bos_token"] is True and "tokenizer.ggml.tokens" not in facts.values


@pytest.mark.parametrize("end", range(0, len(WHOLE), 7))
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, end: int) -> None:
    with pytest.raises(PackageError):
        read_gguf(written(tmp_path, WHOLE[:end]))


@pytest.mark.parametrize(
    "data",
    [gguf(magic=b"GGML"), gguf(version=1), b"a text, much too short to be a model", gguf(entry("x", 99, b"")),
     gguf(entry("x", 8, struct.pack("<Q", 1 << 60))), gguf(entry("x", 9, struct.pack("<IQ", 8, 1 << 60)))],
)  # fmt: skip
def test_what_is_no_gguf_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PackageError):
        read_gguf(written(tmp_path, data))
