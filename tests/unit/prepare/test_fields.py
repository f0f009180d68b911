"""A value becomes an array of its field's datatype without loss, or an error names the field."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import InputError, MissingInput, OutOfRange, UnknownInput, WrongDatatype, WrongShape
from onward.prepare.fields import ItemNames, field_array, shown, value_of
from onward.types import NUMPY_OF_DATATYPE, Field

INTEGERS = [name for name in NUMPY_OF_DATATYPE if "INT" in name]
FLOATS = ["FP16", "FP32", "FP64"]


@given(datatype=st.sampled_from(INTEGERS), number=st.integers(-(2**66), 2**66))
def test_an_integer_is_kept_exactly_or_refused(datatype: str, number: int) -> None:
    limits = np.iinfo(NUMPY_OF_DATATYPE[datatype])
    field = Field(name="n", datatype=datatype)
    if limits.min <= number <= limits.max:
        array = field_array(field, number)
        assert (array.dtype, array.shape, int(array)) == (limits.dtype, (), number)
    else:
        with pytest.raises(OutOfRange, match=r"^n: "):
            field_array(field, number)


@given(datatype=st.sampled_from(FLOATS), number=st.floats() | st.integers(-(2**1100), 2**1100))
def test_a_number_is_rounded_to_the_floating_point_datatype_and_never_becomes_infinity(
    datatype: str, number: float
) -> None:
    dtype = NUMPY_OF_DATATYPE[datatype]
    field = Field(name="x", datatype=datatype)
    try:
        exact = float(number)
    except OverflowError:
        exact = math.nan
        fits = False
    else:
        with np.errstate(over="ignore"):
            fits = not math.isfinite(exact) or bool(np.isfinite(np.float64(exact).astype(dtype)))
    if fits:
        array = field_array(field, number)
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, np.float64(exact).astype(dtype))
    else:
        with pytest.raises(OutOfRange):
            field_array(field, number)


@pytest.mark.parametrize("datatype", [*INTEGERS, *FLOATS])
@pytest.mark.parametrize("value", ["1", b"1", True, None, {}, [True], ["1"], object(), 1j, np.datetime64("2020-01-01")])
def test_what_is_not_a_number_is_refused(datatype: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"^x: "):
        field_array(Field(name="x", datatype=datatype), value)


@pytest.mark.parametrize("datatype", INTEGERS)
def test_a_fraction_is_no_integer(datatype: str) -> None:
    with pytest.raises(WrongDatatype):
        field_array(Field(name="x", datatype=datatype), 0.5)


@pytest.mark.parametrize("value", [0, 1, 1.0, "true"])
def test_only_booleans_are_booleans(value: Any) -> None:
    with pytest.raises(WrongDatatype):
        field_array(Field(name="x", datatype="BOOL"), value)
    assert field_array(Field(name="x", datatype="BOOL"), True)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=8))
def test_any_json_value_is_an_array_that_fits_or_an_input_error(value: Any) -> None:
    for field in (
        Field(name="x", datatype="FP32", shape=(-1,)),
        Field(name="x", datatype="INT8", shape=(2, 2)),
        Field(name="x", datatype="BYTES", shape=(-1, 2)),
    ):
        try:
            array = field_array(field, value)
        except InputError as error:
            assert error.where == "x"
        else:
            assert array.dtype == NUMPY_OF_DATATYPE[field.datatype]
            assert array.ndim == len(field.shape)


@pytest.mark.parametrize(
    ("shape", "value"), [((2,), [1.0]), ((), [1.0]), ((2,), 1.0), ((-1, 2), [[1.0]]), ((-1,), [[1.0], [2.0, 3.0]])]
)
def test_another_shape_is_refused(shape: tuple[int, ...], value: Any) -> None:
    with pytest.raises(WrongShape):
        field_array(Field(name="x", datatype="FP32", shape=shape), value)


def test_a_free_dimension_takes_any_size_and_an_empty_list() -> None:
    field = Field(name="x", datatype="INT64", shape=(-1,))
    assert field_array(field, [1, 2, 3]).shape == (3,)
    assert field_array(field, []).shape == (0,)


def test_an_array_of_the_right_datatype_is_not_copied() -> None:
    array = np.zeros(4, np.float32)
    assert np.shares_memory(field_array(Field(name="x", datatype="FP32", shape=(4,)), array), array)


def test_text_becomes_utf_8_and_bytes_stay() -> None:
    assert field_array(Field(name="x", datatype="BYTES"), "grün").item() == "grün".encode()
    assert field_array(Field(name="x", datatype="BYTES", shape=(2,)), ["a", b"\xff"]).tolist() == [b"a", b"\xff"]


def test_text_without_a_utf_8_form_is_refused() -> None:
    with pytest.raises(WrongDatatype, match="valid Unicode"):
        field_array(Field(name="x", datatype="BYTES"), "\ud800")


@pytest.mark.parametrize(("value", "shown_as"), [(-1.0, "-1"), (11.0, "11"), ([5.0, math.nan, -3.0], "-3")])
def test_a_range_error_names_the_field_its_limit_and_the_value(value: Any, shown_as: str) -> None:
    shape = (3,) if isinstance(value, list) else ()
    with pytest.raises(OutOfRange) as caught:
        field_array(Field(name="x", datatype="FP32", shape=shape, minimum=0, maximum=10), value)
    assert (caught.value.where, caught.value.found) == ("x", shown_as)


def test_a_missing_optional_number_is_nan() -> None:
    assert np.isnan(field_array(Field(name="x", datatype="FP32", shape=(2,), required=False), None)).all()


def test_null_means_missing() -> None:
    assert value_of(Field(name="x", datatype="FP32", default=3.0), {"x": None}) == 3.0
    assert value_of(Field(name="x", datatype="FP32", required=False), {}) is None
    with pytest.raises(MissingInput):
        value_of(Field(name="x", datatype="FP32"), {"x": None})


def test_names_are_checked_both_ways() -> None:
    names = ItemNames((Field(name="a", datatype="FP32"), Field(name="b", datatype="FP32", default=1.0)))
    names.check({"a": 1})
    names.check({"b": 1, "a": 1})
    with pytest.raises(MissingInput, match=r"^a: "):
        names.check({"b": 1})
    with pytest.raises(UnknownInput, match="one of a, b"):
        names.check({"a": 1, "c": 1})


@given(st.text() | st.binary() | st.lists(st.integers()))
def test_a_value_in_a_message_stays_short(value: Any) -> None:
    assert len(shown(value)) <= 70
