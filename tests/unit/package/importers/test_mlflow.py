"""Importing MLflow models: folders as MLflow 3 writes them (checked against its own), made by hand."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onward.errors import OnwardError, PackageError, UsageError
from onward.package.graphcheck import check_graph
from onward.package.importers import mlflow
from onward.package.importers import onnx as onnx_importer
from onward.package.importers.draft import Draft
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.mlflow import draft_of_mlflow
from onward.package.pack import pack
from onward.package.records import PackageInfo, Table
from onward.pipeline import Pipeline
from onward.runners.local import run_package
from tests.triton_models import layer, write, write_layer
from tests.unit.package.importers.families import Family, tokenizer

ROWS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
NAMES = ["sepal length", "sepal width", "petal length", "petal: width"]
ONNX = """flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_session_options: null
    onnx_version: 1.23.2
    providers:
    - CUDAExecutionProvider
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: 3.11.7
mlflow_version: 3.17.2
model_id: null
model_size_bytes: 872
model_uuid: cdcf5170bd3b40caaa94b7b4b0852c71
utc_time_created: '2026-11-25 22:30:48.400474'
"""
EXAMPLE = """saved_input_example_info:
  artifact_path: input_example.json
  serving_input_path: serving_input_example.json
  type: ndarray
"""
COLUMNS = """signature:
  inputs: '[{"type": "double", "name": "sepal length", "required": true}, {"type":
    "double", "name": "sepal width", "required": true}, {"type": "double", "name":
    "petal length", "required": true}, {"type": "double", "name": "petal: width",
    "required": false}]'
  outputs: '[{"type": "float", "name": "y", "required": true}]'
  params: '[{"name": "t", "default": 1.0, "shape": null, "type": "double"}]'
"""
SKLEARN = """flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: model.pkl
    predict_fn: predict
  sklearn:
    code: null
    pickled_model: model.pkl
    serialization_format: cloudpickle
    sklearn_version: 1.9.1
"""


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Graphs are checked but not tried out in a process of their own: test_import_limits.py is about that."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (mlflow, onnx_importer):
            patch.setattr(module, "try_graphs", lambda files, folder: [check_graph(file, folder) for file in files])
        yield


def write_model(folder: Path, text: str, example: Any = None) -> Path:
    """An MLflow folder with a model of one layer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MLmodel").write_text(text, "utf-8")
    if not (folder / "model.onnx").exists():
        write_layer(folder / "model.onnx", seed=2)
    if example is not None:
        (folder / "input_example.json").write_text(json.dumps(example), "utf-8")
    return folder


def imported(folder: Path, **options: Any) -> tuple[Draft, str]:
    """The draft, which has also been packed and run as it is served, and its notes as one text."""
    info = PackageInfo(name="iris", version="1.0.0")
    draft, notes = draft_of_mlflow(folder, info, **options)
    pack(draft, folder.parent / "package", run_package=run_package)
    return draft, "\n".join(notes)


@pytest.mark.parametrize(
    "example",
    [
        ROWS.tolist(),
        {"inputs": ROWS.tolist()},
        {"x": ROWS.tolist()},
        {"inputs": {"x": ROWS.tolist()}},
        {"columns": NAMES, "data": ROWS.tolist()},
        [dict(zip(NAMES, row, strict=True)) for row in ROWS.tolist()],
    ],
)
def test_the_input_example_in_each_of_mlflows_forms_becomes_golden_examples(tmp_path: Path, example: Any) -> None:
    draft, notes = imported(write_model(tmp_path / "model", ONNX + EXAMPLE, example))
    np.testing.assert_array_equal(draft.feeds["x"], ROWS)
    assert "input example" not in notes
    with Pipeline.open(tmp_path / "package") as pipeline:
        assert pipeline.check_examples() == 3
        np.testing.assert_allclose(pipeline({"x": ROWS[0]}).tensors["y"], layer(ROWS[:1], 2, 3), atol=1e-6)
    assert draft.manifest.package.description == "MLflow model cdcf5170bd3b40caaa94b7b4b0852c71"


def test_an_example_with_parameters_is_read_without_them(tmp_path: Path) -> None:
    text = ONNX + EXAMPLE + "  params: 'true'\n"
    draft, _ = imported(write_model(tmp_path / "model", text, {"inputs": ROWS.tolist(), "params": {"t": 1}}))
    np.testing.assert_array_equal(draft.feeds["x"], ROWS)


@pytest.mark.parametrize("example", [[[1.0, 2.0]], {"z": 1}, "text", [[1, 2, 3, 4], [1]], [["a", "b", "c", "d"]]])
def test_an_example_that_does_not_fit_is_told_and_the_model_is_tried_on_other_rows(
    tmp_path: Path, example: Any
) -> None:
    draft, notes = imported(write_model(tmp_path / "model", ONNX + EXAMPLE, example))
    assert "the input example is not used" in notes
    assert len(draft.items) == 3


def test_named_columns_become_the_inputs_of_a_model_with_one_matrix(tmp_path: Path) -> None:
    example = {"columns": NAMES, "data": [*ROWS[:2].tolist(), [*ROWS[2, :3].tolist(), None]]}
    folder = write_model(tmp_path / "model", ONNX + COLUMNS + EXAMPLE, example)
    draft, notes = imported(folder)
    assert [each.name for each in draft.manifest.inputs] == NAMES
    assert [each.required for each in draft.manifest.inputs] == [True, True, True, False]
    assert draft.manifest.prepare == (Table(columns=tuple(NAMES), output="x"),)
    assert set(draft.items[2]) == set(NAMES[:3])  # the missing value is left out
    assert "signature.params" in notes
    with Pipeline.open(tmp_path / "package") as pipeline:
        item = dict(zip(NAMES, ROWS[1].tolist(), strict=True))
        np.testing.assert_allclose(pipeline(item).tensors["y"], layer(ROWS[1:2], 2, 3), atol=1e-6)
        assert [spec.name for spec in pipeline.signature.tensor_inputs] == ["x"]  # as V2 clients know it


def test_columns_of_whole_numbers_and_booleans_keep_their_types(tmp_path: Path) -> None:
    columns = [{"type": kind, "name": name, "required": True}
               for kind, name in zip(("long", "integer", "boolean", "float"), "abcd", strict=True)]  # fmt: skip
    text = ONNX + EXAMPLE + "signature:\n  inputs: '" + json.dumps(columns) + "'\n"
    draft, _ = imported(write_model(tmp_path / "model", text, [[3, -1, 1, 0.5], [0, 7, 0, 2], [1, 1, 1, 1]]))
    assert [each.datatype for each in draft.manifest.inputs] == ["INT64", "INT64", "BOOL", "FP32"]
    assert draft.items[0] == {"a": 3, "b": -1, "c": True, "d": 0.5}


def test_columns_that_are_not_the_models_matrix_are_told(tmp_path: Path) -> None:
    columns = [{"type": "double", "name": "only"}]
    text = ONNX + "signature:\n  inputs: '" + json.dumps(columns) + "'\n"
    draft, notes = imported(write_model(tmp_path / "model", text))
    assert "its columns are not the model's tensors" in notes
    assert [each.name for each in draft.manifest.inputs] == ["x"]


def test_columns_of_their_own_tensors_stay_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "ab"]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])]
    write(folder / "model.onnx", [helper.make_node("Sub", ["a", "b"], ["y"])], inputs, outputs, {})
    columns = [{"type": "float", "name": name} for name in "ab"]
    text = ONNX + EXAMPLE + "signature:\n  inputs: '" + json.dumps(columns) + "'\n"
    draft, notes = imported(write_model(folder, text, {"columns": ["b", "a"], "data": [[1, 5], [2, 5], [3, 5]]}))
    assert draft.reference["y"].tolist() == [4, 3, 2]
    assert "signature" not in notes


def test_session_threads_carry_over_and_what_does_not_is_told(tmp_path: Path) -> None:
    options = "    onnx_session_options:\n      execution_mode: sequential\n      intra_op_num_threads: 1\n"
    text = ONNX.replace("    onnx_session_options: null\n", options).replace("code: null", "code: code")
    folder = write_model(tmp_path / "model", text + "metadata:\n  team: risk\n")
    (folder / "conda.yaml").write_text("", "utf-8")
    draft, notes = imported(folder)
    assert draft.manifest.execute.threads == 1
    for told in ("execution_mode", "providers", "code: nothing of it runs", "metadata", "conda.yaml"):
        assert told in notes


def test_external_data_comes_along(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_layer(tmp_path / "whole.onnx", seed=2)
    onnx.save(onnx.load(str(tmp_path / "whole.onnx")), str(folder / "model.onnx"), save_as_external_data=True,
              location="weights", size_threshold=0)  # fmt: skip
    draft, _ = imported(write_model(folder, ONNX))
    assert set(draft.files) == {"model.onnx", "weights"}


@pytest.mark.long
def test_a_file_of_trees_is_taken_from_its_own_format(tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    x = np.random.default_rng(1).standard_normal((60, 3))
    trained = lightgbm.train({"objective": "regression", "verbose": -1, "min_data_in_leaf": 2},
                             lightgbm.Dataset(x, x[:, 0] * 2), num_boost_round=3)  # fmt: skip
    folder = tmp_path / "model"
    folder.mkdir()
    trained.save_model(str(folder / "model.lgb"))
    text = "flavors:\n  lightgbm:\n    code: null\n    data: model.lgb\n    lgb_version: 4.7.0\n"
    text += "    model_class: lightgbm.basic.Booster\n    serialization_format: skops\n    skops_trusted_types: []\n"
    draft, _ = imported(write_model(folder, text))
    with Pipeline.open(tmp_path / "package") as pipeline:
        names = [each.name for each in draft.manifest.inputs]
        row = np.float32(x[5])
        found = pipeline(dict(zip(names, row.tolist(), strict=True))).tensors["prediction"]
    np.testing.assert_allclose(np.ravel(found), trained.predict(row[None].astype(float)), rtol=1e-5)


TRANSFORMERS = """flavors:
  transformers:
    code: null
    components:
    - tokenizer
    framework: pt
    instance_type: TextClassificationPipeline
    model_binary: model
    pipeline_model_type: BertForSequenceClassification
    task: text-classification
    tokenizer_type: BertTokenizerFast
"""


def test_a_transformers_flavour_is_taken_from_its_folders(tmp_path: Path) -> None:
    model, folder = Family("bert"), tmp_path / "model"
    model.write(folder / "model")
    (folder / "components" / "tokenizer").mkdir(parents=True)
    (folder / "model" / "tokenizer.json").rename(folder / "components" / "tokenizer" / "tokenizer.json")
    draft, notes = imported(write_model(folder, TRANSFORMERS))
    assert draft.manifest.package.task == "text-classification" and "not compared" in notes
    with Pipeline.open(tmp_path / "package") as pipeline:
        found = pipeline("the cat sat").answer
    assert found["label"] == f"LABEL_{int(model.logits(tokenizer().encode('the cat sat').ids).argmax())}"


def test_a_sentence_transformers_flavour_is_an_encoder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    Family("roberta", architectures=["RobertaModel"]).write(folder / "model.sentence_transformer")
    draft, _ = imported(write_model(folder, "flavors:\n  sentence_transformers:\n    code: null\n"))
    assert draft.manifest.package.task == "text-embedding"


def test_an_adapter_or_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", TRANSFORMERS.replace("code: null", "peft_adaptor: peft"))
    with pytest.raises(UnsupportedModel, match="merge the adapter"):
        imported(folder)
    Family("bert").write(tmp_path / "elsewhere")
    (folder / "model").symlink_to(tmp_path / "elsewhere")
    (folder / "MLmodel").write_text(TRANSFORMERS, "utf-8")
    with pytest.raises(PackageError, match="no such file"):
        imported(folder)


class Trap:
    """What unpickling would do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SKLEARN, "onward.pack(model"),
        (SKLEARN.replace("model.pkl", "model.skops").replace("cloudpickle", "skops"), "onward.pack(model"),
        ("flavors:\n  lightgbm:\n    data: model.pkl\n    model_class: lightgbm.sklearn.LGBMClassifier\n", "booster_"),
        ("flavors:\n  pytorch:\n    model_data: data\n    pytorch_version: 2.13.0\n", "torch.onnx.export"),
        ("flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n    python_model: python_model.pkl\n",
         "docs/how-to/python-backend.md"),
        ("flavors:\n  unheard_of:\n    data: model.bin\n", "mlflow.onnx.log_model"),
    ],
)  # fmt: skip
def test_a_pickle_is_never_opened_and_the_refusal_says_what_to_do(tmp_path: Path, text: str, says: str) -> None:
    folder = write_model(tmp_path / "model", text)
    (folder / "model.onnx").unlink()
    for name in ("model.pkl", "model.skops", "python_model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(UnsupportedModel) as raised:
        imported(folder)
    assert says in str(raised.value)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "package").exists()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("flavors: !!python/object/apply:os.system [ls]\n", PackageError),
        ("a: 1\n", PackageError),
        ("flavors:\n  onnx: 3\n", PackageError),
        ("flavors:\n  onnx:\n    data: ../secret.onnx\n", PackageError),
        ("flavors:\n  onnx:\n    data: other.onnx\n", PackageError),
        ("flavors:\n  onnx:\n    code: null\n", PackageError),
        (ONNX + "signature:\n  inputs: '[oops'\n", PackageError),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, text: str, error: type[OnwardError]) -> None:
    with pytest.raises(error):
        imported(write_model(tmp_path / "model", text))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write_layer(tmp_path / "elsewhere.onnx")
    folder = write_model(tmp_path / "model", ONNX)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(PackageError):
        imported(folder)


def test_a_folder_without_mlmodel_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no MLflow model"):
        imported(tmp_path)
