"""What other servers served moves here: `onward import`, and their own clients against a real server process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from tests.acceptance.conftest import Server, serving
from tests.triton_models import layer, write_config, write_repository

ROWS = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)


def onward(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onward", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def from_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of what was imported from a Triton model repository."""
    root = tmp_path_factory.mktemp("triton")
    write_repository(root / "models")
    write_config(root / "models" / "scripted" / "1", "")
    write_config(root / "models" / "scripted", 'backend: "python" max_batch_size: 8')
    made = onward("import", "triton", root / "models", root / "repository", "--licence", "MIT")
    lines = [json.loads(line) for line in made.stdout.splitlines()]
    assert made.returncode == 65 and "scripted" in made.stderr and "UNSUPPORTED_MODEL" in made.stderr
    assert [line["source"] for line in lines if "refused" in line] == ["scripted"]
    assert all(line["compared"] for line in lines if "refused" not in line)
    with serving(root / "repository", "--keep-versions", "2") as running:
        yield running


def infer(server: Server, model: str, version: str, name: str, array: np.ndarray[Any, Any], output: str) -> Any:
    """What Triton's own client gets, with binary tensors."""
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        given = triton.InferInput(name, list(array.shape), "INT64" if array.dtype == np.int64 else "FP32")
        given.set_data_from_numpy(array)
        asked = [triton.InferRequestedOutput(output)]
        return client.infer(model, [given], model_version=version, outputs=asked).as_numpy(output)


@pytest.mark.parametrize("version", ["1", "3"])
def test_tritons_client_gets_the_same_tensors_of_each_version(from_triton: Server, version: str) -> None:
    found = infer(from_triton, "iris_onnx", version, "x", ROWS, "y")
    np.testing.assert_allclose(found, layer(ROWS, int(version), 3), atol=1e-6)


def test_tritons_client_gets_reshaped_narrowed_and_joined_models_as_before(from_triton: Server) -> None:
    found = infer(from_triton, "reshaped", "", "x", ROWS.reshape(6, 2, 2), "y")
    assert found.shape == (6, 3, 1)
    np.testing.assert_allclose(found[..., 0], layer(ROWS, 4, 3), atol=1e-6)
    whole = np.arange(10, dtype=np.int64).reshape(2, 5)
    assert infer(from_triton, "narrowed", "1", "ids", whole, "sum").tolist() == [[10], [35]]
    with pytest.raises(triton.InferenceServerException, match="shape"):
        infer(from_triton, "narrowed", "1", "ids", whole[:, :4], "sum")
    found = infer(from_triton, "both", "1", "IN", ROWS, "OUT")
    np.testing.assert_allclose(found, layer(layer(ROWS, 0, 3), 5, 2), atol=1e-6)


def test_tritons_client_finds_the_signature_that_the_configuration_had(from_triton: Server) -> None:
    with triton.InferenceServerClient(from_triton.url.removeprefix("http://")) as client:
        described = client.get_model_metadata("both")
        assert described["inputs"] == [{"name": "IN", "datatype": "FP32", "shape": [-1, 4]}]
        assert [each["name"] for each in described["outputs"]] == ["OUT", "MIDDLE"]
        assert client.is_model_ready("iris_onnx", "1") and client.is_model_ready("iris_onnx", "3")


def test_labels_are_answered_to_a_plain_request(from_triton: Server) -> None:
    answer = httpx.post(f"{from_triton.url}/models/iris_onnx", json={"x": ROWS[0].tolist()}).json()["answer"]
    best = int(layer(ROWS[:1], 3, 3).argmax())
    assert answer["label"] == ["setosa", "versicolor", "virginica"][best]
