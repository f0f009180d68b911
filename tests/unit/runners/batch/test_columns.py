"""Which column each input is read from, and rows as the pipeline takes them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from onward.errors import MissingInput, UnknownInput, UsageError
from onward.runners.batch.columns import map_columns
from onward.runners.batch.records import Chunk, Job
from onward.types import Field
from tests.unit.runners.batch.jobs import field


def mapped(inputs: list[Field], names: list[str], **columns: str) -> Any:
    schema = pa.schema([(name, pa.string()) for name in names])
    return map_columns(Job(package="", source="", output="", columns=columns), inputs, schema)


def item(one: Field, value: Any, type_: pa.DataType | None = None) -> Any:
    columns = mapped([one], ["a"], **{one.name: "a"})
    chunk = Chunk(table=pa.record_batch([pa.array([value], type_)], names=["a"]), rows=np.arange(1))
    return columns.items(chunk)[0].get(one.name)


def test_an_input_is_read_from_the_column_of_its_name_or_the_one_given() -> None:
    inputs = [field("x"), field("y"), field("z", required=False)]
    assert mapped(inputs, ["y", "other", "w"], x="other").columns == {"x": "other", "y": "y"}


def test_what_is_missing_or_unknown_is_said_with_the_columns_there_are() -> None:
    with pytest.raises(MissingInput, match=r"--columns x=COLUMN.*a, b"):
        mapped([field("x")], ["a", "b"])
    with pytest.raises(UnknownInput, match="nope"):
        mapped([field("x")], ["x"], nope="x")
    with pytest.raises(UsageError, match="nope"):
        mapped([field("x")], ["x"], x="nope")
    assert mapped([field("x", default=1.0)], ["a"]).columns == {}


def test_contents_of_files_and_lines_of_text_find_their_input() -> None:
    picture, note = field("picture", "BYTES", content="image"), field("note", "BYTES", content="text")
    assert mapped([picture], ["_file", "content"]).columns == {"picture": "content"}
    assert mapped([note], ["text"]).columns == {"note": "text"}


def test_pictures_and_sound_are_bytes_structs_or_base64() -> None:
    picture = field("picture", "BYTES", content="image")
    assert item(picture, b"jpeg") == b"jpeg"
    assert item(picture, {"bytes": b"jpeg", "path": "a.jpg"}) == b"jpeg"
    text = base64.b64encode(b"jpeg").decode()
    assert item(picture, text) == item(picture, f"data:image/jpeg;base64,{text}") == b"jpeg"
    assert item(picture, "not base64!") == "not base64!"  # the pipeline says what is wrong with it


def test_lists_in_cells_of_text_are_json_and_a_text_is_a_chat_of_one() -> None:
    assert item(field("x", shape=(3,)), "[1, 2.5, 3]") == [1, 2.5, 3]
    assert item(field("x", shape=(3,)), "words") == "words"
    assert item(field("x", "BYTES", shape=(2,)), "[1]") == "[1]"
    assert item(field("m", "BYTES", content="chat"), "hello") == [{"role": "user", "content": "hello"}]


def test_nulls_are_left_out_and_what_did_not_fit_is_given_as_it_was() -> None:
    columns = mapped([field("x"), field("y")], ["x", "y"])
    table = pa.record_batch({"x": pa.array([1.0, None, None]), "y": pa.array([None, 2.0, 3.0])})
    chunk = Chunk(table=table, rows=np.arange(3), raw={1: {"x": "words"}})
    assert columns.items(chunk) == [{"x": 1.0}, {"x": "words", "y": 2.0}, {"y": 3.0}]
    assert columns.items(chunk, [2, 1]) == [{"y": 3.0}, {"x": "words", "y": 2.0}]
