"""safetensors.py on files written here, whole and broken."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.package.importers.safetensors import DATATYPES, BrokenSafetensors, read_safetensors


def write(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(datatype: str, shape: Any, offsets: Any) -> dict[str, Any]:
    return {"dtype": datatype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BF16"])
def test_every_datatype_comes_back_to_the_bit(datatype: str, tmp_path: Path) -> None:
    kind = DATATYPES[datatype]
    values = np.random.default_rng(1).integers(0, 2, (3, 4)).astype(kind)
    header = {"__metadata__": {"format": "pt"}, "t": entry(datatype, [3, 4], [0, values.nbytes])}
    found = read_safetensors(write(tmp_path / "m.safetensors", header, values.tobytes()))
    np.testing.assert_array_equal(found["t"], values, strict=True)
    assert not found["t"].flags.writeable


def test_bfloat16_becomes_fp32(tmp_path: Path) -> None:
    exact = np.array([1.0, -3.5, 2.0**-20], np.float32)
    data = (exact.view(np.uint32) >> 16).astype("<u2").tobytes()
    found = read_safetensors(write(tmp_path / "m", {"t": entry("BF16", [3], [0, 6])}, data))
    np.testing.assert_array_equal(found["t"], exact, strict=True)


def test_scalars_and_empty_tensors_have_their_shapes(tmp_path: Path) -> None:
    header = {"one": entry("F32", [], [0, 4]), "none": entry("F32", [0, 5], [4, 4])}
    found = read_safetensors(write(tmp_path / "m", header, struct.pack("<f", 2.5)))
    assert found["one"].shape == ()
    assert found["one"] == 2.5
    assert found["none"].shape == (0, 5)


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ({"t": entry("F32", [2], [0, 4])}, "as the header says"),
        ({"t": entry("F32", [4], [0, 16])}, "as the header says"),
        ({"t": entry("F32", [1], [8, 4])}, "as the header says"),
        ({"t": entry("F32", [1 << 62, 1 << 62], [0, 8])}, "as the header says"),
        ({"t": entry("F32", [-1], [0, 4])}, "whole numbers"),
        ({"t": entry("F32", [True], [0, 4])}, "whole numbers"),
        ({"t": entry("F32", "1", [0, 4])}, "whole numbers"),
        ({"t": entry("F32", [1], [0, 4, 8])}, "whole numbers"),
        ({"t": entry("F4", [1], [0, 4])}, "datatype"),
        ({"t": entry("F32", [1], [0, 4]), "u": entry("F32", [2], [0, 8])}, "overlaps"),
        ({"t": 3}, "not an object"),
        ([1], "not an object"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(header: Any, word: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenSafetensors, match=word):
        read_safetensors(write(tmp_path / "m", header, b"\0" * 8))


@pytest.mark.parametrize("length", [1 << 20, 1 << 63])
def test_a_header_longer_than_the_file_is_refused_before_it_is_read(length: int, tmp_path: Path) -> None:
    with pytest.raises(BrokenSafetensors, match="longer"):
        read_safetensors(write(tmp_path / "m", {}, length=length))


@pytest.mark.parametrize("content", [b"", b"\1\0\0"])
def test_a_file_without_its_length_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(BrokenSafetensors, match="shorter"):
        read_safetensors(tmp_path / "m")
