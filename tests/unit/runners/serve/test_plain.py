"""Plain bodies: read into items, or refused with an error of ours."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import InputError, TooLarge, UnsupportedMedia
from onward.runners.serve.plain import read_items, requested_outputs
from onward.types import Field

AGE = Field(name="age", datatype="FP32")
TEXT = Field(name="text", datatype="BYTES", content="text")
PHOTO = Field(name="photo", datatype="BYTES", content="image")
JSON = "application/json"


@pytest.mark.parametrize("media", [JSON, "", "application/vnd.api+json", "Application/JSON; charset=utf-8"])
def test_json_is_an_item_or_a_list_of_items(media: str) -> None:
    assert read_items(media, b'{"age": 3}', [AGE], max_rows=4) == ([{"age": 3}], False)
    assert read_items(media, b'[{"age": 3}, {}]', [AGE], max_rows=4) == ([{"age": 3}, {}], True)


def test_a_form_that_is_json_is_json_as_curl_sends_it() -> None:
    assert read_items("application/x-www-form-urlencoded", b'{"age": 3}', [AGE], max_rows=4) == ([{"age": 3}], False)
    with pytest.raises(UnsupportedMedia):
        read_items("application/x-www-form-urlencoded", b"age=3", [AGE], max_rows=4)


def test_text_and_images_go_to_the_field_of_their_kind() -> None:
    fields = [AGE, TEXT, PHOTO]
    assert read_items("text/plain", "é".encode(), fields, max_rows=4) == ([{"text": "é"}], False)
    assert read_items("image/png", b"\x89PNG", fields, max_rows=4) == ([{"photo": b"\x89PNG"}], False)
    with pytest.raises(UnsupportedMedia, match="text/"):
        read_items("audio/wav", b"RIFF", fields, max_rows=4)


def test_too_many_items_are_too_large() -> None:
    with pytest.raises(TooLarge):
        read_items(JSON, b"[{},{},{}]", [AGE], max_rows=2)


@given(
    st.binary(max_size=100), st.sampled_from([JSON, "text/plain", "text/x; charset=utf-16", "image/png", "x/y", ";"])
)
@settings(max_examples=300, deadline=None)
def test_random_bodies_are_read_or_an_error_of_ours(body: bytes, media: str) -> None:
    for fields in ([AGE], [TEXT], [PHOTO]):
        try:
            items, _ = read_items(media, body, fields, max_rows=4)
        except InputError as error:
            assert 400 <= error.status < 500
        else:
            assert all(isinstance(item, dict) for item in items)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["age", "photo", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_an_error_of_ours(value: object) -> None:
    for fields in ([AGE], [PHOTO]):
        try:
            read_items(JSON, json.dumps(value).encode(), fields, max_rows=4)
        except InputError as error:
            assert 400 <= error.status < 500


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (b"", ()), (b"outputs=a", ("a",)), (b"outputs=a,b", ("a", "b")), (b"x=1&outputs=a&outputs=b", ("a", "b")),
        (b"outputs=", ()), (b"outputs=%61,,", ("a",)), (b"\xff", ()),
    ],
)  # fmt: skip
def test_outputs_are_asked_for_in_the_query(query: bytes, names: tuple[str, ...]) -> None:
    assert requested_outputs(query) == names
