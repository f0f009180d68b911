"""Text and JSON values as typed columns: what fits is read as Python reads it, what does not is kept as it is."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.runners.batch.cells import of_texts, of_values, type_of_field, type_of_texts, type_of_values
from tests.unit.runners.batch.jobs import field


def texts(values: list[Any], type_: pa.DataType) -> tuple[list[Any], dict[int, Any]]:
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    column, misfits = of_texts(pa.array(encoded, pa.binary()), type_)
    assert column.type == type_
    return column.to_pylist(), misfits


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (["1", " 2 ", ""], pa.int64()), (["1", "2.5", "-1e3"], pa.float64()), (["true", "FALSE"], pa.bool_()),
        (["1", "a"], pa.string()), (["", " "], pa.string()), (["99999999999999999999"], pa.float64()),
        (["0x10"], pa.string()), (["1_000"], pa.string()), (["nan", "inf"], pa.float64()), (["1e999"], pa.string()),
    ],
)  # fmt: skip
def test_texts_have_the_narrowest_type_of_all(values: list[str], type_: pa.DataType) -> None:
    assert type_of_texts(values) == type_


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, None], pa.int64()), ([1, 2.5], pa.float64()), ([True], pa.bool_()), ([True, 1], pa.string()),
        ([[1], 2], pa.string()), ([], pa.string()), (["a", 1], pa.string()),
    ],
)  # fmt: skip
def test_values_have_the_type_of_all(values: list[Any], type_: pa.DataType) -> None:
    assert type_of_values(values) == type_


def test_the_type_for_an_input_is_wide_enough_to_say_what_is_wrong() -> None:
    kinds = {"FP32": pa.float64(), "INT8": pa.int64(), "BOOL": pa.bool_(), "BYTES": pa.string()}
    assert {kind: type_of_field(field("x", kind)) for kind in kinds} == kinds
    assert type_of_field(field("x", "FP32", shape=(3,))) is None
    assert type_of_field(field("x", "BYTES", content="image")) is None
    assert type_of_field(field("x", "INT64", categories=("a",))) == pa.string()


def test_what_does_not_fit_is_null_and_kept() -> None:
    assert texts(["1", "x", "", "2.5"], pa.int64()) == ([1, None, None, None], {1: "x", 3: "2.5"})
    assert texts(["1", b"\xff", "inf"], pa.float64()) == ([1.0, None, math.inf], {1: b"\xff"})
    assert texts(["True", "yes"], pa.bool_()) == ([True, None], {1: "yes"})
    assert texts([b"\xff", "a"], pa.string()) == ([None, "a"], {0: b"\xff"})
    column, misfits = of_values([1, True, 2**70, 1.5, "1"], pa.int64())
    assert column.to_pylist() == [1, None, None, None, None] and set(misfits) == {1, 2, 3, 4}
    column, misfits = of_values(["a", "\ud800", 1], pa.string())
    assert column.to_pylist() == ["a", None, None] and set(misfits) == {1, 2}
    column, misfits = of_values([[1], None, "x"], None)
    assert column.null_count == 3 and misfits == {0: [1], 2: "x"}


@given(st.lists(st.floats(width=64) | st.none(), max_size=20), st.booleans())
def test_numbers_are_read_to_the_bit(numbers: list[float | None], plain: bool) -> None:
    written = ["" if one is None else repr(one) for one in numbers] + ([] if plain else ["", "x"])
    found, misfits = texts(written, pa.float64())
    assert str(found[: len(numbers)]) == str(numbers) and misfits == ({} if plain else {len(numbers) + 1: "x"})


@given(st.lists(st.integers(-(1 << 64), 1 << 64), max_size=20))
def test_whole_numbers_are_read_or_kept(numbers: list[int]) -> None:
    found, misfits = texts([str(one) for one in numbers], pa.int64())
    for at, number in enumerate(numbers):
        fits = -(1 << 63) <= number < 1 << 63
        assert found[at] == (number if fits else None) and (at in misfits) is not fits


@given(
    st.lists(st.binary(max_size=6), max_size=12), st.sampled_from([pa.int64(), pa.float64(), pa.bool_(), pa.string()])
)
def test_any_bytes_are_read_or_kept(cells: list[bytes], type_: pa.DataType) -> None:
    found, misfits = texts(list(cells), type_)
    assert len(found) == len(cells)
    for at, cell in enumerate(cells):
        empty = not cell.decode("utf-8", "replace").strip() and not pa.types.is_string(type_)
        assert (found[at] is not None) or at in misfits or empty
