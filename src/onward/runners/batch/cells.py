"""Text and JSON values as typed columns. What does not fit its column's type is null there and kept as it is, so that
its row can be told precisely what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from onward.types import Field

SAMPLE_ROWS = 1000
JSON_CONTENT = {b"content": b"application/json"}
"""The metadata of a column whose texts are JSON."""
_LARGEST_INT = 1 << 63
_PLAIN_FLOAT = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"
_PLAIN_INT = r"^-?[0-9]{1,18}$"
_BOOLS = {"true": True, "false": False}


def type_of_field(field: Field) -> pa.DataType | None:
    """What a column read for a package's input should hold; None: something nested, or bytes, that stays as it is."""
    if field.shape or field.content in ("image", "audio", "chat"):
        return None
    kind = field.datatype
    if field.categories or kind == "BYTES":
        return pa.string()
    if kind == "BOOL":
        return pa.bool_()
    return pa.float64() if kind[0] == "F" else pa.int64()


def type_of_texts(values: Sequence[str]) -> pa.DataType:
    """The narrowest type that all non-empty texts of a sample have."""
    seen = [value.strip() for value in values if value.strip()]
    for type_, read in ((pa.int64(), _int), (pa.float64(), _float), (pa.bool_(), _bool)):
        if seen and all(_reads(read, value) for value in seen):
            return type_
    return pa.string()


def type_of_values(values: Sequence[Any]) -> pa.DataType:
    """The same for what JSON gave; what is nested or mixed becomes JSON text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.string()


def of_texts(column: pa.Array, type_: pa.DataType) -> tuple[pa.Array, dict[int, Any]]:
    """A column of bytes, as a CSV file has them, in a type: the column and, by place, what did not fit.

    Where the type is not text, an empty value is missing.
    """
    try:
        texts = column.cast(pa.string())
    except pa.ArrowInvalid:
        return _one_by_one([_decoded(value) for value in column.to_pylist()], type_, of_text=True)
    if pa.types.is_string(type_):
        return texts, {}
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if pa.types.is_boolean(type_):
        return _one_by_one(texts.to_pylist(), type_, of_text=True)
    plain = pc.match_substring_regex(texts, _PLAIN_INT if pa.types.is_integer(type_) else _PLAIN_FLOAT)
    if pc.all(plain, min_count=0).as_py():  # nulls are neither plain nor not
        return texts.cast(type_), {}
    return _one_by_one(texts.to_pylist(), type_, of_text=True)


def of_values(values: Sequence[Any], type_: pa.DataType | None) -> tuple[pa.Array, dict[int, Any]]:
    """What JSON gave, in a type: the column and, by place, what did not fit. None: everything stays as it is."""
    if type_ is None:
        return pa.nulls(len(values), pa.string()), {i: value for i, value in enumerate(values) if value is not None}
    return _one_by_one(values, type_, of_text=False)


def as_json_text(value: Any) -> str:
    """A value that is not text, as JSON."""
    return msgspec.json.encode(value).decode()


def _one_by_one(values: Sequence[Any], type_: pa.DataType, *, of_text: bool) -> tuple[pa.Array, dict[int, Any]]:
    read = _text_reader(type_) if of_text else _value_reader(type_)
    kept: list[Any] = []
    raw: dict[int, Any] = {}
    for place, value in enumerate(values):
        fitting = None
        if value is not None:
            try:
                fitting = read(value)
            except (ValueError, TypeError, OverflowError):
                raw[place] = value
        kept.append(fitting)
    return pa.array(kept, type_), raw


def _text_reader(type_: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_boolean(type_):
        return _bool
    if pa.types.is_integer(type_):
        return _int
    return _float if pa.types.is_floating(type_) else _text


def _value_reader(type_: pa.DataType) -> Callable[[Any], Any]:
    if pa.types.is_boolean(type_):
        return _only(bool)
    if pa.types.is_integer(type_):
        return _whole
    return _number if pa.types.is_floating(type_) else _text


def _only(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError
        return value

    return read


def _whole(value: Any) -> int:
    if type(value) is not int or not -_LARGEST_INT <= value < _LARGEST_INT:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    value.encode()  # lone surrogates are no text
    return value


def _float(value: str) -> float:
    if re.fullmatch(r"[+-]?(inf(inity)?|nan|[0-9_.]+([eE][+-]?[0-9]+)?)", value, re.IGNORECASE) is None or "_" in value:
        raise ValueError
    number = float(value)
    if number in (float("inf"), float("-inf")) and "n" not in value.lower():
        raise OverflowError
    return number


def _int(value: str) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,19}", value) is None:
        raise ValueError
    return _whole(int(value))


def _bool(value: str) -> bool:
    try:
        return _BOOLS[value.lower()]
    except KeyError:
        raise ValueError from None


def _reads(read: Callable[[str], Any], value: str) -> bool:
    try:
        read(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _decoded(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
