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
from tests.triton_models import layer, write_config, write_layer, write_repository

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


def test_an_mlflow_model_is_imported_and_answers_by_its_columns(tmp_path: Path) -> None:
    columns = ["age", "balance", "visits", "share"]
    schema = [{"type": "double", "name": name, "required": True} for name in columns]
    folder = tmp_path / "churn"
    write_layer(folder / "model.onnx", seed=8)
    (folder / "MLmodel").write_text(
        "flavors:\n  onnx:\n    data: model.onnx\nsaved_input_example_info:\n  artifact_path: input_example.json\n"
        "  type: dataframe\nsignature:\n  inputs: '" + json.dumps(schema) + "'\n", "utf-8",
    )  # fmt: skip
    (folder / "input_example.json").write_text(json.dumps({"columns": columns, "data": ROWS.tolist()}), "utf-8")
    out = tmp_path / "repository" / "churn" / "2.0.0"
    made = onward("import", "mlflow", folder, out, "--version", "2.0.0")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["compared"] is True
    assert json.loads(onward("verify", out).stdout)["examples"] == 5
    item = dict(zip(columns, ROWS[0].tolist(), strict=True))
    answer = json.loads(onward("run", out, json.dumps(item)).stdout)["answer"]
    np.testing.assert_allclose(answer["y"], layer(ROWS[:1], 8, 3)[0], atol=1e-6)


def test_labels_are_answered_to_a_plain_request(from_triton: Server) -> None:
    answer = httpx.post(f"{from_triton.url}/models/iris_onnx", json={"x": ROWS[0].tolist()}).json()["answer"]
    best = int(layer(ROWS[:1], 3, 3).argmax())
    assert answer["label"] == ["setosa", "versicolor", "virginica"][best]
