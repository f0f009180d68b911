"""textformat.py against Protocol Buffers' own text format, with Triton's own schema, as tritonclient ships both."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import tritonclient
from google.protobuf import text_format
from google.protobuf.message import Message as ProtoMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import PackageError
from onward.package.importers.textformat import MAX_DEPTH, Message, Word, read_text_format
from tests import triton_models


def triton_schema() -> Any:
    """Triton's messages; the module around them needs gRPC, they do not."""
    file = Path(tritonclient.__file__).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCHEMA = triton_schema()
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_WORD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)  # maps leave empty ones out
_SIZES = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)


def tensors(kind: Any) -> st.SearchStrategy[Any]:
    return st.builds(
        kind, name=_TEXT, data_type=st.sampled_from(SCHEMA.DataType.values()), dims=_SIZES,
        reshape=st.none() | st.builds(SCHEMA.ModelTensorReshape, shape=_SIZES),
    )  # fmt: skip


CONFIGS = st.builds(
    SCHEMA.ModelConfig,
    name=_TEXT,
    backend=_TEXT,
    max_batch_size=st.integers(-(2**31), 2**31 - 1),
    input=st.lists(tensors(SCHEMA.ModelInput), max_size=3),
    output=st.lists(tensors(SCHEMA.ModelOutput), max_size=2),
    instance_group=st.lists(
        st.builds(SCHEMA.ModelInstanceGroup, count=st.integers(0, 9), kind=st.sampled_from([0, 1, 2, 3])), max_size=2
    ),
    parameters=st.dictionaries(_WORD, st.builds(SCHEMA.ModelParameter, string_value=_WORD), max_size=2),
    metric_tags=st.dictionaries(_WORD, _WORD, max_size=2),
    response_cache=st.builds(SCHEMA.ModelResponseCache, enable=st.booleans()),
)


def plain(message: ProtoMessage) -> dict[str, list[Any]]:
    """A message of protobuf's as lists of values by name; enumerations by name, maps as entries, sorted."""
    fields: dict[str, list[Any]] = {}
    for field, value in message.ListFields():
        entry = field.message_type is not None and field.message_type.GetOptions().map_entry
        values = [{"key": [k], "value": [v]} for k, v in value.items()] if entry else value
        if not entry and not field.is_repeated:
            values = [value]
        if field.enum_type is not None:
            values = [field.enum_type.values_by_number[each].name for each in values]
        fields[field.name] = [_inner(each) for each in values]
    return fields


def _inner(value: Any) -> Any:
    if isinstance(value, ProtoMessage):
        return plain(value)
    if isinstance(value, dict):
        return {"key": value["key"], "value": [_inner(value["value"][0])]}
    return value


def read(message: Message) -> dict[str, list[Any]]:
    """A message of ours in the same form."""
    return {name: [read(each) if isinstance(each, Message) else each for each in message.values(name)]
            for name in message.names}  # fmt: skip


def same(found: Any, expected: Any) -> bool:
    """Equal, where `true` may be a word; maps have no order."""
    if isinstance(expected, dict):
        if set(found) != set(expected):
            return False
        return all(
            len(found[name]) == len(expected[name])
            and all(any(same(f, e) for f in found[name]) for e in expected[name])
            for name in expected
        )
    if isinstance(expected, bool):
        return found == Word("true" if expected else "false")
    return bool(found == expected) and isinstance(found, str) == isinstance(expected, str)


@settings(max_examples=150, deadline=None)
@given(CONFIGS, st.booleans(), st.booleans(), st.booleans())
def test_what_protobuf_writes_with_tritons_schema_is_read_as_it_was_meant(
    config: Any, as_one_line: bool, as_utf8: bool, pointy: bool
) -> None:
    text = text_format.MessageToString(config, as_one_line=as_one_line, as_utf8=as_utf8, pointy_brackets=pointy)
    found = read(read_text_format(text, "config.pbtxt"))
    assert same(found, plain(config)), text


@pytest.mark.parametrize(
    "text", [triton_models.LABELLED, triton_models.RESHAPED, triton_models.NARROWED, triton_models.ENSEMBLE]
)
def test_the_configurations_of_these_tests_are_tritons_and_read_as_protobuf_reads_them(text: str) -> None:
    config = text_format.Parse(text, SCHEMA.ModelConfig())
    assert same(read(read_text_format(text, "config.pbtxt")), plain(config))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abz_09.-+eExX#\"'\\\n\t {}<>[]:;,ü", max_size=60) | st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_line_and_what_is_read_has_names(text: str) -> None:
    try:
        message = read_text_format(text, "config.pbtxt")
    except PackageError as error:
        assert error.where.startswith("config.pbtxt")
    else:
        assert all(name.replace("_", "a").isalnum() for name in message.names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1 a: 2", {"a": [1, 2]}),
        ("a: [1, 2] b: []", {"a": [1, 2]}),
        ("a [ { b: 1 }, < b: 2 > ]", {"a": [{"b": [1]}, {"b": [2]}]}),
        ("a: 0x1F b: 017 c: -3 d: - 3", {"a": [31], "b": [15], "c": [-3], "d": [-3]}),
        ("a: 1.5e2 b: .5f c: 3F", {"a": [150.0], "b": [0.5], "c": [3.0]}),
        ('a: "x" \'y\'\n"z"', {"a": ["xyz"]}),
        (r'a: "\303\274\x41\u00fc\n\""', {"a": ['üAü\n"']}),
        ("a: inf b: -Infinity", {"a": [float("inf")], "b": [float("-inf")]}),
        ("# nothing\n", {}),
        ("a { } ; b: TRUE,", {"a": [{}], "b": ["TRUE"]}),
    ],
)
def test_each_way_to_write_a_value_is_read(text: str, expected: dict[str, list[Any]]) -> None:
    assert read(read_text_format(text, "x")) == expected


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb { c: 2", 2, "ends too early"),
        ("a: 1\n\n}", 3, "not the name"),
        ("a", 1, "ends too early"),
        ("a 1", 1, "no value"),
        ('a: "open\n', 1, "not text format"),
        (r'a: "\q"', 1, "no such escape"),
        (r'a: "\377"', 1, "not UTF-8"),
        ("a: 09", 1, "not a number"),
        ("a: [1 2]", 1, "list without an end"),
        ("a: -word", 1, "not a value"),
        ("-a: 1", 1, "not the name"),
        ("[type.url/x] { }", 1, "not text format"),
        ("a { " * (MAX_DEPTH + 2), 1, "nested deeper"),
    ],
)
def test_what_is_not_text_format_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(PackageError) as raised:
        read_text_format(text, "config.pbtxt")
    assert raised.value.where == f"config.pbtxt:{line}"
    assert says in str(raised.value)


def test_what_nobody_read_is_told_by_its_dotted_name() -> None:
    message = read_text_format("a: 1 b { c: 2 d { e: 3 } } b { f: 4 } g: 5", "x")
    assert message.integer("a") == 1
    inner = message.messages("b")[0]
    assert inner.integer("c") == 2
    assert list(message.unread()) == ["b.d", "b.f", "g"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a: WORD", lambda m: m.text("a")),
        ('a: "text"', lambda m: m.word("a")),
        ('a: "1"', lambda m: m.integer("a")),
        ("a: 1.5", lambda m: m.integer("a")),
        ("a: 2", lambda m: m.flag("a")),
        ("a: 1", lambda m: m.message("a")),
    ],
)
def test_a_value_of_another_type_is_refused(text: str, read: Any) -> None:
    with pytest.raises(PackageError, match="another type"):
        read(read_text_format(text, "x"))
