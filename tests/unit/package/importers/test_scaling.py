"""scaling.py: a served FP32 number is taken for the number that was typed, and for nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("skl2onnx", reason="needs the extra `pack`")

import skl2onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from onward.package.importers.frame import frame_of
from onward.package.importers.scaling import Scaling, decimals, exact_scalers, has_decimals

SCALERS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    RobustScaler(),
    RobustScaler(with_scaling=False),
    MinMaxScaler(),
    MinMaxScaler(clip=True, feature_range=(0.25, 0.5)),
    MaxAbsScaler(),
]


def scaled(scaler: Any, rows: Any, scaling: Scaling) -> Any:
    model = skl2onnx.convert_sklearn(
        scaler,
        initial_types=[("x", FloatTensorType([None, rows.shape[1]]))],
        custom_conversion_functions=exact_scalers(scaling),
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows.astype(np.float32)})[0]


def table(seed: int, digits: int) -> Any:
    return (np.random.default_rng(seed).normal(size=(2000, 4)) * [1, 10, 1000, 0.1] + 3).round(digits)


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
def test_whole_numbers_and_typed_decimals_are_scaled_to_the_bit(scaler: Any) -> None:
    for digits in (0, 1, 3):
        rows = table(digits, digits)
        frame = frame_of(rows) if digits else None
        expected = scaler.fit(table(9, 2)).transform(rows).astype(np.float32)
        np.testing.assert_array_equal(scaled(scaler, rows, Scaling(frame=frame)), expected, strict=True)


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
def test_fp32_tables_are_scaled_as_scikit_learn_scales_them(scaler: Any) -> None:
    rows = table(1, 6).astype(np.float32)
    expected = scaler.fit(table(9, 2)).transform(rows)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(scaled(scaler, rows, Scaling(single=True)), expected, strict=True)


def test_numbers_of_more_decimals_than_the_sample_are_not_rounded() -> None:
    scaler = StandardScaler().fit(table(9, 2))
    fine = np.random.default_rng(4).normal(size=(500, 4)).astype(np.float32)
    fine[0] = [np.nan, 1e30, -1e-30, 0.0]
    expected = scaler.transform(fine.astype(np.float64)).astype(np.float32)
    found = scaled(scaler, fine, Scaling(frame=frame_of(table(1, 1))))
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 2.0), 0),
        ((0.5, 2.25), 2),
        ((1e-6, None), 6),
        ((1e-7,), 0),
        ((1 / 3,), 0),
        ((), 0),
        ((float("inf"), 0.1), 1),
    ],
)
def test_decimals_are_counted_up_to_six(values: tuple[Any, ...], expected: int) -> None:
    assert decimals(values) == expected


def test_only_columns_of_numbers_have_decimals() -> None:
    assert has_decimals(frame_of(np.array([[1, 0.5]] * 3)))
    assert not has_decimals(frame_of(np.array([[1, 2]] * 3)))
    assert not has_decimals(frame_of([["a"], ["b"], ["c"]]))
