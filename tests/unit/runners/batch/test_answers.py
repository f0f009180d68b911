"""Answers as columns: every datatype comes out as it went in, by tensors and one by one alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="packages of every datatype are built with onnx")

from onward.pipeline import Pipeline
from onward.types import NUMPY_OF_DATATYPE
from tests import packages
from tests.unit.runners.batch.jobs import read, score, write

WHOLE = [kind for kind in packages.DATATYPES if kind.startswith(("INT", "UINT"))]
SAMPLES: dict[str, list[Any]] = {
    **{kind: [[0, 1, int(np.iinfo(NUMPY_OF_DATATYPE[kind]).max)] for _ in range(3)] for kind in WHOLE},
    "UINT64": [[0, 1, 2**63 - 1]] * 3, "BOOL": [[True, False, True]] * 3, "BYTES": [["a", "", "ä\n"]] * 3,
    "FP16": [[0.5, -2.0, 65504.0]] * 3, "FP32": [[0.1, -2.5, 3e38]] * 3, "FP64": [[0.1, -2.5, 1e300]] * 3,
}  # fmt: skip


@pytest.mark.parametrize("form", ["parquet", "jsonl", "arrow"])
@pytest.mark.parametrize("kind", packages.DATATYPES)
def test_every_datatype_comes_out_as_it_went_in(tmp_path: Path, kind: str, form: str) -> None:
    package = packages.echo_package(tmp_path / "echo", {"v": kind}, name="echo")
    rows = [{"v": value} for value in SAMPLES[kind]]
    score(package, write(tmp_path / "in.jsonl", rows), tmp_path / f"out.{form}", keep=())
    found = [row["v_out"] for row in read(tmp_path / f"out.{form}")]
    with Pipeline.open(package) as pipeline:
        wanted = [result.answer["v_out"] for result in pipeline.batch(rows)]
    if kind.startswith("FP"):
        assert np.array_equal(np.array(found, NUMPY_OF_DATATYPE[kind]), np.array(wanted, NUMPY_OF_DATATYPE[kind]))
    else:
        assert found == [list(one) for one in wanted]


def test_several_inputs_are_read_from_several_columns(tmp_path: Path) -> None:
    package = packages.echo_package(tmp_path / "echo", {"a": "FP32", "b": "BYTES"}, name="echo", shape=())
    rows = [{"a": at / 2, "text": f"t{at}"} for at in range(9)]
    report = score(package, write(tmp_path / "in.csv", rows), tmp_path / "out.jsonl", keep=(), columns={"b": "text"})
    assert report["answers"] == 9
    assert [(row["a_out"], row["b_out"]) for row in read(tmp_path / "out.jsonl")] == [
        (at / 2, f"t{at}") for at in range(9)
    ]
