"""Frames carry every datatype unchanged and refuse what is not a frame."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.execute.frames import (
    Answer,
    BrokenFrame,
    Disconnected,
    Failed,
    Message,
    Ready,
    TensorHeader,
    lay_out,
    receive,
    send,
    tensors_of,
)
from onward.types import NUMPY_OF_DATATYPE, Array


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def carried(tensors: dict[str, Array]) -> dict[str, Array]:
    """The tensors after a trip through a real socket."""
    one, other = socket.socketpair()
    with one, other:
        headers, pieces = lay_out(tensors)
        sender = threading.Thread(target=send, args=(one, Answer(tensors=headers), pieces))
        sender.start()
        message, body = receive(other, timeout_s=10.0)
        sender.join()
    assert isinstance(message, Answer)
    return tensors_of(message.tensors, body)


@settings(deadline=None, max_examples=50)
@given(
    datatypes=st.lists(st.sampled_from(sorted(NUMPY_OF_DATATYPE)), min_size=1, max_size=4),
    shape=st.lists(st.integers(0, 4), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_datatype_and_shape_arrives_bit_for_bit(datatypes: list[str], shape: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for index, datatype in enumerate(datatypes):
        dtype = NUMPY_OF_DATATYPE[datatype]
        if datatype == "BYTES":
            tensor = np.empty(shape, object)
            for place in np.ndindex(*shape):
                tensor[place] = random.bytes(int(random.integers(0, 9)))
        else:
            count = int(np.prod(shape))
            bits = random.integers(0, 2, count * dtype.itemsize, dtype=np.uint8)
            tensor = bits.view(dtype).reshape(shape) if datatype != "BOOL" else bits.astype(bool).reshape(shape)
        tensors[f"t{index}"] = tensor
    for name, tensor in carried(tensors).items():
        assert tensor.dtype == tensors[name].dtype
        assert tensor.shape == tensors[name].shape
        if tensor.dtype == object:
            assert tensor.tolist() == tensors[name].tolist()
        else:
            assert tensor.tobytes() == tensors[name].tobytes()


def test_views_big_endian_and_text_arrays_arrive_as_plain_ones() -> None:
    grid = np.arange(12.0).reshape(3, 4)
    got = carried({"t": grid.T[::2], "big": grid.astype(">f8"), "text": np.array(["é", "b"]), "raw": np.array([b"x"])})
    np.testing.assert_array_equal(got["t"], grid.T[::2])
    np.testing.assert_array_equal(got["big"], grid)
    assert got["big"].dtype == np.float64
    assert got["text"].tolist() == ["é".encode(), b"b"]
    assert got["raw"].tolist() == [b"x"]


def test_tensors_that_arrive_are_aligned_and_writable() -> None:
    got = carried({"a": np.ones(3, np.uint8), "b": np.ones(3, np.float64)})
    assert got["b"].flags.aligned
    got["b"][0] = 2.0


def test_a_frame_larger_than_the_socket_buffer_arrives_whole() -> None:
    big = np.arange(3_000_000, dtype=np.float32)
    np.testing.assert_array_equal(carried({"big": big})["big"], big)


@pytest.mark.parametrize("tensor", [np.array([1 + 2j]), np.array(["2026-01-01"], "datetime64[D]")])
def test_a_type_without_datatype_is_refused_by_name(tensor: Array) -> None:
    with pytest.raises(ValueError, match="'odd'"):
        lay_out({"odd": tensor})


def test_an_object_that_is_no_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="holds a dict"):
        lay_out({"x": np.array([{}], object)})


def test_a_closed_channel_is_disconnected(channel: tuple[socket.socket, socket.socket]) -> None:
    channel[0].close()
    with pytest.raises(Disconnected):
        receive(channel[1])
    with pytest.raises(Disconnected):
        send(channel[1], Ready())


def test_a_silent_channel_times_out(channel: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        receive(channel[0], timeout_s=0.01)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IQ", 2**31, 0),
        struct.pack("<IQ", 4, 0) + b"\xc1\xc1\xc1\xc1",
        struct.pack("<IQ", 1, 0) + b"\x80",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, channel: tuple[socket.socket, socket.socket]) -> None:
    channel[0].sendall(data)
    with pytest.raises(BrokenFrame):
        receive(channel[1], timeout_s=1.0)


@pytest.mark.parametrize(
    "header",
    [
        TensorHeader(name="x", datatype="FP32", shape=(4,), start=0, size=12),
        TensorHeader(name="x", datatype="FP32", shape=(8,), start=0, size=32),
        TensorHeader(name="x", datatype="FP32", shape=(1,), start=-4, size=4),
        TensorHeader(name="x", datatype="FP31", shape=(4,), start=0, size=16),
        TensorHeader(name="x", datatype="FP32", shape=(-1, -4), start=0, size=16),
        TensorHeader(name="x", datatype="BYTES", shape=(2**40,), start=0, size=16),
        TensorHeader(name="x", datatype="BYTES", shape=(1,), start=0, size=16),
        TensorHeader(name="x", datatype="BYTES", shape=(1,), start=0, size=3),
    ],
)
def test_a_header_that_does_not_fit_its_body_is_refused(header: TensorHeader) -> None:
    body = np.full(16, 1, np.uint8)
    with pytest.raises(BrokenFrame):
        tensors_of([header], body)


@pytest.mark.parametrize("message", [Ready(), Failed(message="m", details="d")])
def test_messages_without_tensors_arrive(message: Message, channel: tuple[socket.socket, socket.socket]) -> None:
    send(channel[0], message)
    got, body = receive(channel[1], timeout_s=1.0)
    assert got == message
    assert not body.size
