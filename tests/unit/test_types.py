"""The vocabulary's few behaviours."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from onward.types import DATATYPE_OF_NUMPY, NUMPY_OF_DATATYPE, CancelToken, Decision, Event, Field, TensorSpec


def test_every_datatype_has_one_numpy_type_and_back() -> None:
    assert {DATATYPE_OF_NUMPY[dtype]: dtype for dtype in NUMPY_OF_DATATYPE.values()} == dict(NUMPY_OF_DATATYPE)


@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", np.float32), ("INT64", np.int64), ("BYTES", np.object_)])
def test_a_tensor_knows_its_numpy_type(datatype: str, dtype: type[np.generic]) -> None:
    assert TensorSpec(name="x", datatype=datatype, shape=(-1,)).dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    "record", [Field(name="x", datatype="FP32"), Decision(outcome="approve", rule="r"), Event(kind="end")]
)
def test_records_cannot_be_changed(record: object) -> None:
    assert dataclasses.is_dataclass(record)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "other")


def test_a_cancel_from_another_thread_is_seen_and_stays() -> None:
    token = CancelToken()
    assert not token.cancelled
    thread = threading.Thread(target=token.cancel)
    thread.start()
    thread.join()
    token.cancel()
    assert token.cancelled
