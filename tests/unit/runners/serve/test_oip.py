"""V2 bodies: what a client wrote is what is read, both ways; whatever else comes in is an error with a code."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from onward.errors import InputError, MalformedBody, OnwardError, TooLarge, UnknownOutput, WrongDatatype, WrongShape
from onward.execute.scheduler import HIGH, LOW, NORMAL
from onward.runners.serve.oip import InferDecoder, InferRequest, field_specs
from onward.runners.serve.oip_answer import InferEncoder
from onward.types import NUMPY_OF_DATATYPE, Array, Field, TensorSpec

NUMBERS = [kind for kind in NUMPY_OF_DATATYPE if kind != "BYTES"]
MAX_ROWS = 16


def spec(kind: str, shape: tuple[int, ...] = (-1, 3), name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, datatype=kind, shape=shape)


def decoder_of(*specs: TensorSpec, fields: tuple[TensorSpec, ...] = (), max_rows: int = MAX_ROWS) -> InferDecoder:
    return InferDecoder(specs, fields, ["y", "z"], max_rows=max_rows)


def arrays(kind: str, *, finite: bool) -> st.SearchStrategy[Array]:
    """Tensors of up to `MAX_ROWS` rows and two free dimensions."""
    shapes = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=4)
    if kind == "BYTES":
        texts = st.text(max_size=8).map(str.encode)
        return shapes.flatmap(lambda shape: hnp.arrays(object, shape, elements=texts, fill=st.nothing()))
    dtype = NUMPY_OF_DATATYPE[kind]
    if dtype.kind != "f":
        return hnp.arrays(dtype, shapes)
    bits = hnp.arrays(np.dtype(f"u{dtype.itemsize}"), shapes)  # every bit pattern, odd NaNs too
    return bits.map(lambda array: np.nan_to_num(array.view(dtype)) if finite else array.view(dtype))


def triton_body(
    tensors: dict[str, tuple[str, Array, bool]], *, outputs: list[Any] | None = None, request_id: str = ""
) -> tuple[bytes, int | None]:
    """A body as tritonclient writes it: {name: (datatype, array, binary)}."""
    inputs = []
    for name, (kind, array, binary) in tensors.items():
        inputs.append(InferInput(name, list(array.shape), kind).set_data_from_numpy(array, binary_data=binary))
    body, length = InferenceServerClient.generate_request_body(inputs, outputs=outputs, request_id=request_id)
    return body.encode() if isinstance(body, str) else body, length


def column(request: InferRequest, name: str, kind: str, shape: tuple[int, ...]) -> Array:
    """A column as an array, whichever way it came."""
    return np.array(request.columns[name], NUMPY_OF_DATATYPE[kind]).reshape(shape)


def equal(found: Array, wanted: Array) -> bool:
    if wanted.dtype == object:
        return bool(found.shape == wanted.shape and found.ravel().tolist() == wanted.ravel().tolist())
    return bool(found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes())


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", NUMPY_OF_DATATYPE)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_tritonclient_writes_is_read_to_the_bit(kind: str, binary: bool, data: st.DataObject) -> None:
    array = data.draw(arrays(kind, finite=not binary))
    request_id = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
    body, length = triton_body({"x": (kind, array, binary)}, request_id=request_id)
    for shape in ((-1, -1, -1), (-1, *array.shape[1:])):  # the general way, and the short one where there is one
        request = decoder_of(spec(kind, shape)).decode(body, length)
        assert request.rows == len(array) and request.id == request_id and request.binary is True
        assert equal(column(request, "x", kind, array.shape), array)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_many_tensors_in_one_body_keep_apart(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(list(NUMPY_OF_DATATYPE)), min_size=2, max_size=5))
    rows = data.draw(st.integers(1, 4))
    sent: dict[str, tuple[str, Array, bool]] = {}
    for index, kind in enumerate(kinds):
        binary = data.draw(st.booleans())
        array = np.resize(data.draw(arrays(kind, finite=not binary)), (rows, 2))
        sent[f"x{index}"] = (kind, array, binary)
    body, length = triton_body(sent)
    decoder = decoder_of(*(spec(kind, (-1, 2), name) for name, (kind, _, _) in sent.items()))
    # Read again, other values behind the same JSON part are cut out by what is remembered of it.
    other = {name: (kind, array[::-1].copy(), binary) for name, (kind, array, binary) in sent.items()}
    again, again_length = triton_body(other)
    for wanted, one, one_length in ((sent, body, length), (other, again, again_length), (sent, body, length)):
        request = decoder.decode(one, one_length)
        assert request.rows == rows
        for name, (kind, array, _) in wanted.items():
            assert equal(column(request, name, kind, array.shape), array)
    if length is not None and length < len(body):
        with pytest.raises(InputError):
            decoder.decode(body[:-1], length)
        with pytest.raises(InputError):
            decoder.decode(body + b"0", length)


@pytest.mark.parametrize("binary", [True, False, frozenset({"y"}), frozenset({"z"})])
@pytest.mark.parametrize("kind", NUMPY_OF_DATATYPE)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_tritonclient_reads_what_is_written_to_the_bit(
    kind: str, binary: bool | frozenset[str], data: st.DataObject
) -> None:
    tensors = {name: data.draw(arrays(kind, finite=binary is not True)) for name in ("y", "z")}
    encoder = InferEncoder("m", "1.0.0", [spec(kind, (-1, -1, -1), name) for name in tensors])
    body, length = encoder.encode("id", tensors, binary)
    result = InferResult.from_response_body(body, header_length=length)
    assert result.get_response()["id"] == "id" and result.get_response()["model_name"] == "m"
    for name, array in tensors.items():
        found = result.as_numpy(name)
        if kind == "BYTES":
            found = np.array([v.encode() if isinstance(v, str) else v for v in found.ravel()], object)
            found = found.reshape(array.shape)
        assert equal(found, array)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_short_way_out_writes_what_the_general_one_does(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(NUMBERS))
    array = data.draw(arrays(kind, finite=True))
    encoder = InferEncoder("m", "1.0.0", [spec(kind, (-1, *array.shape[1:]), "y")])
    request_id = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
    short = encoder.encode_rows(request_id, ["y"], len(array), [array.ravel().tolist()])
    general, _ = encoder.encode(request_id, {"y": array}, False)
    assert short is not None
    assert json.loads(short) == json.loads(general)


def test_fields_of_the_item_are_taken_where_tensors_are_not_named() -> None:
    fields = field_specs([Field(name="age", datatype="FP32"), Field(name="name", datatype="BYTES")])
    decoder = decoder_of(spec("FP32", (-1, 2), "features"), fields=fields)
    body = {"inputs": [
        {"name": "age", "shape": [2], "datatype": "FP32", "data": [1, 2.5]},
        {"name": "name", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]},
    ]}  # fmt: skip
    request = decoder.decode(json.dumps(body).encode())
    assert request.of_fields and request.rows == 2
    assert np.array(request.columns["name"], object).tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("high", HIGH), ("normal", NORMAL), ("low", LOW), (1, HIGH), (2, NORMAL), (3, LOW), (0, None), (None, None)],
)
def test_a_priority_has_a_name_or_tritons_number(value: Any, wanted: int | None) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32"}
    body = {"inputs": [tensor | {"data": [1, 2, 3]}], "parameters": {"priority": value}}
    assert decoder_of(spec("FP32")).decode(json.dumps(body).encode()).priority == wanted
    decoder = decoder_of(spec("FP32"))
    binary = {"inputs": [tensor | {"parameters": {"binary_data_size": 12}}], "parameters": {"priority": value}}
    head = json.dumps(binary).encode()
    for _ in range(2):  # the second time the layout is known
        assert decoder.decode(head + bytes(12), len(head)).priority == wanted


@pytest.mark.parametrize("value", ["urgent", "", 4, -1, True, False, 1.0, [1], {}, 10**30])
def test_another_priority_is_refused(value: Any) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    with pytest.raises(MalformedBody, match=r"parameters\.priority"):
        decoder_of(spec("FP32")).decode(json.dumps({"inputs": [tensor], "parameters": {"priority": value}}).encode())


def test_outputs_are_binary_by_name_or_all_together() -> None:
    def asked(**request: Any) -> Any:
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        return decoder_of(spec("FP32")).decode(json.dumps({"inputs": [tensor], **request}).encode())

    yes, no = {"parameters": {"binary_data": True}}, {"parameters": {"binary_data": False}}
    assert asked().binary is False
    assert asked(parameters={"binary_data_output": True}).binary is True
    assert asked(outputs=[{"name": "y"} | yes, {"name": "z"} | no]).binary == frozenset({"y"})
    assert asked(outputs=[{"name": "z"}, {"name": "y"}]).outputs == ("z", "y")


def valid_bodies() -> list[tuple[bytes, int | None]]:
    """Bodies of every form, to be mutated: a short one, nested, binary, BYTES, mixed, with outputs."""
    floats = np.arange(6, dtype=np.float32).reshape(2, 3)
    texts = np.array([[b"a", b"bc", b""], [b"d", b"", b"ef"]], object)
    made = [
        triton_body({"x": ("FP32", floats, False), "t": ("BYTES", texts, False)}),
        triton_body({"x": ("FP32", floats, True), "t": ("BYTES", texts, True)}),
        triton_body({"x": ("FP32", floats, False), "t": ("BYTES", texts, True)}, request_id="é",
                    outputs=[InferRequestedOutput("y"), InferRequestedOutput("z", binary_data=False)]),
    ]  # fmt: skip
    return made


BODIES = valid_bodies()
TWO = decoder_of(spec("FP32"), spec("BYTES", (-1, 3), "t"))
ONE = decoder_of(spec("INT8"), fields=(spec("BYTES", (-1,), "text"),))


def only_errors_of_ours(body: bytes, length: int | None) -> None:
    for decoder in (TWO, ONE):
        try:
            decoder.decode(body, length)
        except OnwardError as error:
            assert isinstance(error, InputError) and 400 <= error.status < 500
            json.dumps(dict(error.as_dict()))


@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(-5, 400)))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_an_error_of_ours(body: bytes, length: int | None) -> None:
    only_errors_of_ours(body, length)


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_mutated_bodies_are_read_or_an_error_of_ours(data: st.DataObject) -> None:
    body, length = data.draw(st.sampled_from(BODIES))
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "swap", "drop"]))
        if how == "flip" and at < len(changed):
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del changed[at:]
        elif how == "insert":
            changed[at:at] = data.draw(st.sampled_from([b"-1", b"9" * 25, b"[[", b'"', b"null", b"\xff", b"1e999"]))
        elif how == "swap":
            changed[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
        else:
            del changed[at : at + data.draw(st.integers(1, 8))]
    if length is not None:
        length += data.draw(st.sampled_from([0, 0, 0, 1, -1, 1000]))
    only_errors_of_ours(bytes(changed), length)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_any_json_in_the_place_of_any_value_is_read_or_an_error_of_ours(data: st.DataObject) -> None:
    body, length = data.draw(st.sampled_from(BODIES))
    head = json.loads(body[:length])
    place = data.draw(st.sampled_from(["name", "shape", "datatype", "data", "parameters", "id", "outputs", "inputs"]))
    target = head["inputs"][0] if place in head["inputs"][0] else head
    target[place] = data.draw(JSON)
    text = json.dumps(head).encode()
    only_errors_of_ours(text + (b"" if length is None else body[length:]), None if length is None else len(text))


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":' + b"[" * 100_000,
        b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"INT8","data":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'{"inputs":[{"name":"x","shape":[' + b"9" * 6000 + b'],"datatype":"INT8","data":[1]}]}',
        b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"INT8","data":[1,2,' + b"9" * 6000 + b"]}]}",
        b'{"inputs":[{"name":"x","shape":[4611686018427387904,4],"datatype":"INT8","data":[]}]}',
        b'{"parameters":{"a":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}}",
    ],
    ids=["open brackets", "deep data", "huge shape", "huge number", "shape that overflows", "deep parameters"],
)
def test_bodies_made_to_break_a_parser_are_an_error_of_ours(body: bytes) -> None:
    with pytest.raises(InputError):
        ONE.decode(body)


def test_a_request_of_too_many_rows_is_too_large_before_its_data_is_looked_at() -> None:
    tensor = {"name": "x", "shape": [MAX_ROWS + 1, 3], "datatype": "INT8", "data": None}
    with pytest.raises(TooLarge, match="at most 16 rows"):
        ONE.decode(json.dumps({"inputs": [tensor]}).encode())


def test_a_string_may_not_claim_more_bytes_than_there_are() -> None:
    head = {"inputs": [{"name": "t", "shape": [1, 3], "datatype": "BYTES", "parameters": {"binary_data_size": 12}},
                       {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}  # fmt: skip
    text = json.dumps(head).encode()
    with pytest.raises(MalformedBody, match="4294967295 bytes for element 0"):
        TWO.decode(text + b"\xff\xff\xff\xff" + b"x" * 8, len(text))


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        ("INT8", 128, InputError), ("INT8", -129, InputError), ("UINT8", -1, InputError), ("UINT64", 2**64, InputError),
        ("INT64", 2**63, InputError), ("INT32", 1.5, WrongDatatype), ("INT32", True, WrongDatatype),
        ("FP32", "1", WrongDatatype), ("FP32", None, WrongDatatype), ("FP32", True, WrongDatatype),
        ("BOOL", 1, WrongDatatype), ("BYTES", 1, WrongDatatype), ("FP64", [1], WrongDatatype),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_its_datatype_is_named(kind: str, value: Any, error: type[InputError]) -> None:
    good: Any = {"BYTES": "a", "BOOL": True}.get(kind, 1)
    tensor = {"name": "x", "shape": [1, 3], "datatype": kind, "data": [good, value, good]}
    with pytest.raises(error, match=r"^x"):
        decoder_of(spec(kind)).decode(json.dumps({"inputs": [tensor]}).encode())


@pytest.mark.parametrize("shape", [[], [3], [1, 3, 1], [0, 3], [-1, 3], [1, 4], [3, 1]])
def test_a_shape_that_does_not_fit_says_which_would(shape: list[int]) -> None:
    tensor = {"name": "x", "shape": shape, "datatype": "INT8", "data": [1, 2, 3]}
    with pytest.raises(WrongShape, match=r"expected shape \[-1, 3\]"):
        ONE.decode(json.dumps({"inputs": [tensor]}).encode())


def test_encoded_json_is_what_msgspec_reads_back() -> None:
    encoder = InferEncoder('na"me', "1.0.0", [spec("FP32", (-1, 2), "y")])
    body = encoder.encode_rows('i"d', ["y"], 1, [[1.5, 2.5]])
    assert body is not None
    assert msgspec.json.decode(body) == {
        "model_name": 'na"me', "model_version": "1.0.0", "id": 'i"d',
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}],
    }  # fmt: skip


def test_an_output_asked_for_twice_is_refused_before_it_could_be_a_million_times() -> None:
    decoder = decoder_of(spec("FP32"))
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    body = msgspec.json.encode({"inputs": [tensor], "outputs": [{"name": "y"}, {"name": "y"}]})
    with pytest.raises(UnknownOutput, match="each output once"):
        decoder.decode(body)


def binary_body(kind: str, shape: list[int], size: int) -> tuple[bytes, int]:
    head = {"name": "x", "shape": shape, "datatype": kind, "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [head]}).encode()
    return text + bytes(size), len(text)


@pytest.mark.parametrize("size", [0, 4, 8, 11, 13, 16, 24])
def test_binary_data_of_another_size_than_its_shape_is_a_wrong_shape(size: int) -> None:
    with pytest.raises(WrongShape, match="12 bytes"):
        decoder_of(spec("FP32")).decode(*binary_body("FP32", [1, 3], size))


def test_a_shape_of_more_texts_than_the_body_could_hold_takes_no_memory_for_them() -> None:
    body = binary_body("BYTES", [1, 1 << 45], 64)
    with pytest.raises(MalformedBody, match=r"64 bytes"):
        decoder_of(spec("BYTES", (-1, -1))).decode(*body)
