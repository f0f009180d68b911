"""Named fields become one row in the columns' order; what does not fit names its column."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import InputError, MissingInput, OutOfRange, WrongDatatype
from onward.prepare.tabular import TablePreparation
from onward.types import Field

PLAIN = (
    Field(name="a", datatype="FP32"),
    Field(name="b", datatype="FP64", minimum=0.1, maximum=1e30),
    Field(name="c", datatype="FP32", maximum=5.0),
)
MIXED = (
    Field(name="amount", datatype="FP32", minimum=0.0, maximum=100.0),
    Field(name="age", datatype="INT8", default=30),
    Field(name="kind", datatype="BYTES", categories=("car", "home")),
    Field(name="known", datatype="BOOL", default=False),
    Field(name="score", datatype="FP32", required=False),
)


def table(fields: tuple[Field, ...], *, unknown: str = "error") -> TablePreparation:
    return TablePreparation(fields, columns=tuple(field.name for field in fields), output="features", unknown=unknown)


OPTIONAL = (
    Field(name="a", datatype="FP32", default=2.5),
    Field(name="b", datatype="FP32"),
    Field(name="c", datatype="FP64", required=False, maximum=5.0),
)


numbers = st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False) | st.just(0.1)
values = numbers | st.none() | st.booleans() | st.text(max_size=2)


@given(st.sampled_from([PLAIN, OPTIONAL]), st.fixed_dictionaries({"b": values}, optional={"a": values, "c": values}))
def test_what_the_typed_decoder_takes_the_general_path_takes_and_gives_the_same_row(
    fields: tuple[Field, ...], item: dict[str, Any]
) -> None:
    prepared = table(fields)
    if fields is PLAIN:
        item = {"a": 1.0, "c": 2.0} | item
    row = prepared.decode_row(json.dumps(item).encode())
    try:
        general = prepared(item)["features"]
    except InputError:
        assert row is None
    else:
        if row is not None:
            np.testing.assert_array_equal(np.array([row], np.float32), general)


@given(st.tuples(st.floats(-1e6, 1e6), st.floats(1, 1e6), st.floats(-1e6, 5)))
def test_an_ordinary_row_takes_the_typed_decoder(row: tuple[float, float, float]) -> None:
    assert table(PLAIN).decode_row(json.dumps(dict(zip("abc", row, strict=True))).encode()) == list(row)


def test_defaults_and_missing_numbers_take_the_typed_decoder_too() -> None:
    np.testing.assert_array_equal(table(OPTIONAL).decode_row(b'{"b": 1}'), [2.5, 1.0, math.nan])


@given(st.binary(max_size=40) | st.just(b"[" * 100_000))
def test_the_typed_decoder_leaves_what_it_cannot_read_to_the_general_path(body: bytes) -> None:
    assert table(PLAIN).decode_row(body) is None


def test_a_table_of_other_fields_has_no_typed_decoder() -> None:
    assert table(MIXED).decode_row(b"{}") is None


def test_values_stand_in_the_columns_order() -> None:
    prepared = TablePreparation(PLAIN, columns=("c", "a", "b"), output="x", unknown="error")
    np.testing.assert_array_equal(prepared({"a": 1, "b": 2, "c": 3})["x"], np.float32([[3, 1, 2]]))


def test_categories_are_their_index_booleans_0_or_1_defaults_fill_in_and_missing_is_nan() -> None:
    row = table(MIXED)({"amount": 5, "kind": "home"})["features"]
    assert row.shape == (1, 5)
    assert row.dtype == np.float32
    np.testing.assert_array_equal(row, np.float32([[5, 30, 1, 0, math.nan]]))


def test_null_is_missing() -> None:
    row = table(MIXED)({"amount": 5, "kind": "car", "age": None, "score": None})["features"]
    np.testing.assert_array_equal(row, np.float32([[5, 30, 0, 0, math.nan]]))


def test_numpy_numbers_are_numbers() -> None:
    item = {"amount": np.float32(5), "kind": "car", "age": np.int64(3), "known": np.bool_(True)}
    np.testing.assert_array_equal(table(MIXED)(item)["features"][:, :4], np.float32([[5, 3, 0, 1]]))


def test_an_unknown_category_is_an_error_that_lists_them_or_nan_where_the_manifest_says_so() -> None:
    item = {"amount": 5, "kind": "boat"}
    with pytest.raises(WrongDatatype, match=r"kind: .*one of car, home"):
        table(MIXED)(item)
    assert np.isnan(table(MIXED, unknown="nan")(item)["features"][0, 2])


@pytest.mark.parametrize(
    ("change", "error", "where"),
    [
        ({"amount": -1}, OutOfRange, "amount"),
        ({"amount": 101.0}, OutOfRange, "amount"),
        ({"amount": 1e39}, OutOfRange, "amount"),
        ({"amount": 10**400}, OutOfRange, "amount"),
        ({"amount": "5"}, WrongDatatype, "amount"),
        ({"amount": True}, WrongDatatype, "amount"),
        ({"amount": None}, MissingInput, "amount"),
        ({"amount": [5]}, WrongDatatype, "amount"),
        ({"age": 1.5}, WrongDatatype, "age"),
        ({"age": 128}, OutOfRange, "age"),
        ({"age": 10**400}, OutOfRange, "age"),
        ({"age": math.nan}, WrongDatatype, "age"),
        ({"kind": 1}, WrongDatatype, "kind"),
        ({"known": 1}, WrongDatatype, "known"),
    ],
)
def test_an_error_names_the_column(change: dict[str, Any], error: type[InputError], where: str) -> None:
    with pytest.raises(error) as caught:
        table(MIXED)({"amount": 5, "kind": "car"} | change)
    assert caught.value.where == where


def test_a_range_error_in_a_matrix_names_its_first_column() -> None:
    prepared = table(PLAIN)
    prepared.check_range(np.float32([[0, 1, 5], [0, math.nan, 5]]))
    with pytest.raises(OutOfRange, match=r"^c: .*at most 5; found 6"):
        prepared.check_range(np.float32([[0, 1, 5], [0, 1, 6]]))
