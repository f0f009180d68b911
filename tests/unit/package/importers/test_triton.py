"""Importing a Triton model repository: what moves, what is told, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onward.errors import UsageError
from onward.opening import open_pipeline
from onward.package.digest import read_lock
from onward.package.graphcheck import check_graph
from onward.package.importers import onnx as onnx_importer
from onward.package.importers import triton
from onward.package.importers.moved import Moved
from onward.package.importers.triton import import_triton
from onward.package.manifest import load_manifest
from onward.package.records import Labels
from onward.pipeline import Pipeline
from onward.runners.local import run_package
from tests.triton_models import layer, write, write_config, write_layer, write_repository

ONE = 'backend: "onnxruntime" max_batch_size: 4\n'
X = 'input { name: "x" data_type: TYPE_FP32 dims: 4 }\n'
Y = 'output { name: "y" data_type: TYPE_FP32 dims: 3 }\n'
ROWS = np.random.default_rng(7).standard_normal((5, 4)).astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Graphs are checked but not tried out in a process of their own: test_import_limits.py is about that."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (triton, onnx_importer):
            patch.setattr(module, "try_graphs", lambda files, folder: [check_graph(file, folder) for file in files])
        yield


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Moved]:
    root = tmp_path_factory.mktemp("triton")
    found = import_triton(write_repository(root / "models"), root / "out", licence="MIT", run_package=run_package)
    return {(each.source, each.version): each for each in found}


def imported(tmp_path: Path, config: str, **options: Any) -> Moved:
    """One model, imported from a repository of nothing else."""
    write_config(tmp_path / "models" / "one", config)
    if not (tmp_path / "models" / "one" / "1").exists():
        write_layer(tmp_path / "models" / "one" / "1" / "model.onnx", **options)
    (found,) = import_triton(tmp_path / "models", tmp_path / "out", run_package=run_package)
    return found


def test_every_model_and_version_moves_and_was_compared_with_its_original(moved: dict[Any, Moved]) -> None:
    assert set(moved) == {
        ("Iris_ONNX", "1"), ("Iris_ONNX", "3"), ("reshaped", "1"), ("narrowed", "1"), ("plain", "1"), ("second", "1"),
        ("both", "1"),
    }  # fmt: skip
    for each in moved.values():
        assert not each.refused
        assert each.path is not None and read_lock(each.path).parity["compared"] is True
        assert each.rows > 0 and each.digest == read_lock(each.path).digest


def test_batching_instances_threads_and_labels_become_the_manifests(moved: dict[Any, Moved]) -> None:
    each = moved["Iris_ONNX", "3"]
    assert each.path is not None and each.path.parent.name == "iris_onnx"
    manifest = load_manifest(each.path)
    assert manifest.package.licence == "MIT"
    assert (manifest.batching.max_batch_size, manifest.batching.max_queue_delay_us) == (16, 100)
    assert (manifest.execute.instances, manifest.execute.threads) == (2, 1)
    assert manifest.generate == (Labels(scores="y", file="labels.txt"),)
    assert (each.path / "labels.txt").read_bytes() == b"setosa\nversicolor\nvirginica\n"
    with Pipeline.open(each.path) as pipeline:
        answer = pipeline({"x": ROWS[0]}).answer
    assert answer["label"] == ["setosa", "versicolor", "virginica"][int(layer(ROWS[:1], 3, 3).argmax())]


def test_what_does_not_carry_over_is_told(moved: dict[Any, Moved]) -> None:
    notes = "\n".join(moved["Iris_ONNX", "1"].notes)
    for told in ("iris_onnx", "preferred_batch_size", "--keep-versions", "classification extension"):
        assert told in notes
    assert "no config.pbtxt" in moved["plain", "1"].notes[0]
    assert any("one graph" in note for note in moved["both", "1"].notes)


def test_an_output_that_the_configuration_leaves_out_is_no_tensor_of_the_package(moved: dict[Any, Moved]) -> None:
    path = moved["second", "1"].path
    assert path is not None
    with Pipeline.open(path) as pipeline:
        assert [spec.name for spec in pipeline.signature.tensor_outputs] == ["q"]


def test_a_reshaped_model_takes_and_gives_what_clients_know(moved: dict[Any, Moved]) -> None:
    path = moved["reshaped", "1"].path
    assert path is not None
    with Pipeline.open(path) as pipeline:
        assert [spec.shape for spec in pipeline.signature.tensor_inputs] == [(-1, 2, 2)]
        assert [spec.shape for spec in pipeline.signature.tensor_outputs] == [(-1, 3, 1)]
        results = pipeline.batch([{"x": row.reshape(2, 2)} for row in ROWS])
    found = np.concatenate([result.tensors["y"] for result in results])
    np.testing.assert_allclose(found[..., 0], layer(ROWS, 4, 3), atol=1e-6)


def test_dims_that_are_narrower_than_the_model_bind(moved: dict[Any, Moved]) -> None:
    path = moved["narrowed", "1"].path
    assert path is not None
    with Pipeline.open(path) as pipeline:
        assert pipeline.signature.tensor_inputs[0].shape == (-1, 5)
        assert pipeline({"ids": [1, 2, 3, 4, 5]}).answer == {"sum": [15]}


def test_an_ensemble_of_two_operator_sets_answers_as_its_models_in_turn(moved: dict[Any, Moved]) -> None:
    path = moved["both", "1"].path
    assert path is not None
    with Pipeline.open(path) as pipeline:
        results = pipeline.batch([{"IN": row} for row in ROWS])
    middle = layer(ROWS, 0, 3)
    np.testing.assert_allclose(np.concatenate([r.tensors["MIDDLE"] for r in results]), middle, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([r.tensors["OUT"] for r in results]), layer(middle, 5, 2), atol=1e-6)


def test_importing_again_changes_nothing_and_other_contents_are_refused(tmp_path: Path) -> None:
    first = imported(tmp_path, ONE + X + Y)
    assert imported(tmp_path, ONE + X + Y).digest == first.digest
    again = imported(tmp_path, ONE.replace("4", "8") + X + Y)
    assert "other contents" in again.refused
    assert not [entry for entry in (tmp_path / "out").iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ('backend: "python"', "docs/how-to/python-backend.md"),
        ('platform: "tensorrt_plan"', "the ONNX file that it was built from"),
        ('platform: "pytorch_libtorch"', "torch.onnx.export"),
        ('backend: "unheard_of"', "an ONNX model"),
        (ONE + X + Y + "sequence_batching { }", "state between the requests"),
        (ONE + X + Y + "model_transaction_policy { decoupled: true }", "any number of times"),
        (ONE + X + Y + 'model_operations { op_library_filename: "ops.so" }', "foreign operators"),
        (ONE + X + Y + "batch_input { }", "ragged"),
        (ONE + X.replace("dims: 4", "dims: 4 allow_ragged_batch: true") + Y, "allow_ragged_batch"),
        (ONE + X.replace("FP32", "BF16") + Y, "BF16"),
        (ONE + X.replace("FP32", "FP64") + Y, "another datatype"),
        (ONE + X.replace("dims: 4", "dims: 5") + Y, "not the shape that the model has"),
        (ONE + X.replace("dims: 4", "dims: -1") + Y, "not the shape that the model has"),
        (ONE + X.replace("dims: 4", "dims: 0") + Y, "a size that no tensor has"),
        (ONE + X.replace("dims: 4", "dims: [ 1000000, 1000000 ]") + Y, "absurd size"),
        (ONE + X.replace('"x"', '"z"') + Y, "leaves out inputs"),
        (ONE + X + Y.replace('"y"', '"z"'), 'no output "z"'),
        (ONE + X.replace("dims: 4", "dims: [ -1, 4 ]") + Y, "with a batch in front"),
        (ONE + X + Y + 'default_model_filename: "../model.onnx"', "out of the version's folder"),
        (ONE + X + Y + 'default_model_filename: "other.onnx"', "no such file"),
        (ONE + X + Y.replace("dims: 3", 'dims: 3 label_filename: "../secret"'), "out of the model's folder"),
        (ONE + X + Y + 'name: "two"', "called other than its folder"),
        (ONE + X + Y + "version_policy { specific { versions: [ 1, 7 ] } }", "a version is not there"),
        ("max_batch_size: }", "no value"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason_and_nothing_is_written(
    tmp_path: Path, config: str, says: str
) -> None:
    found = imported(tmp_path, config)
    assert says in found.refused
    assert found.code in ("UNSUPPORTED_MODEL", "INVALID_PACKAGE")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (ONE + X + Y + "optimization { graph { level: 1 } }", "optimization"),
        (ONE + X + Y + 'model_warmup { name: "w" batch_size: 1 }', "model_warmup"),
        (ONE + X + Y + "unheard_of { of: 1 }", "unheard_of"),
        (ONE + X + Y + "instance_group { count: 1 kind: KIND_GPU gpus: [ 0, 1 ] }", "GPU"),
        (ONE + X + Y + "dynamic_batching { priority_levels: 3 }", "priority"),
        (ONE + X + Y + 'parameters { key: "execution_mode" value { string_value: "1" } }', "execution_mode"),
        (ONE + X + Y + "version_policy { latest { num_versions: 2 } }", "--keep-versions 2"),
        (ONE + X.replace("dims: 4", "dims: 4 optional: true") + Y, "optional"),
        (ONE + X + Y.replace("dims: 3", 'dims: 3 label_filename: "labels.txt"'), "not one label for each score"),
        ('backend: "onnxruntime" max_batch_size: 0\n' + X.replace("dims: 4", "dims: [ -1, 4 ]"), "for the batch"),
    ],
)
def test_what_is_of_no_use_here_is_a_note_and_the_model_moves(tmp_path: Path, config: str, told: str) -> None:
    write_config(tmp_path / "models" / "one", "")
    (tmp_path / "models" / "one" / "labels.txt").write_text("only\ntwo\n", "utf-8")
    found = imported(tmp_path, config)
    assert not found.refused
    assert any(told in note for note in found.notes), found.notes


def test_a_model_on_graphics_processors_prefers_them_and_has_an_instance_each(tmp_path: Path) -> None:
    found = imported(tmp_path, ONE + X + Y + "instance_group { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] }")
    assert found.path is not None
    execute = load_manifest(found.path).execute
    assert (execute.instances, execute.providers) == (4, ("cuda", "cpu"))


def test_a_fixed_batch_of_one_stays_one_row_a_run(tmp_path: Path) -> None:
    found = imported(tmp_path, ONE + X + Y, batch=1)
    assert found.path is not None and load_manifest(found.path).batching.max_batch_size == 1
    assert any("fixed to one row" in note for note in found.notes)


def test_rows_that_depend_on_each_other_are_no_batch_without_max_batch_size(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["length", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["length", 4])]
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
    write(tmp_path / "models" / "one" / "1" / "model.onnx", nodes, inputs, outputs, {})
    found = imported(tmp_path, 'backend: "onnxruntime"')
    assert "max_batch_size is 0" in found.refused and found.code == "UNSUPPORTED_MODEL"


def test_a_model_that_trains_is_refused_before_a_runtime_sees_it(tmp_path: Path) -> None:
    node = helper.make_node("Adam", ["x"], ["y"], domain="ai.onnx.training")
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 1, ["n", 4])],
                              [helper.make_tensor_value_info("y", 1, ["n", 4])])  # fmt: skip
    file = tmp_path / "models" / "one" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(helper.make_model(graph).SerializeToString())
    assert imported(tmp_path, ONE).code == "REFUSED_GRAPH"


def test_a_link_out_of_the_repository_is_not_followed(tmp_path: Path) -> None:
    write_layer(tmp_path / "elsewhere.onnx")
    (tmp_path / "models" / "one" / "1").mkdir(parents=True)
    (tmp_path / "models" / "one" / "1" / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    assert "leads out of the repository" in imported(tmp_path, ONE).refused


@pytest.mark.parametrize("reshape", [False, True])
def test_external_data_comes_along(tmp_path: Path, reshape: bool) -> None:
    folder = tmp_path / "models" / "one" / "1" / "model.onnx"  # a folder, as Triton wants it for such models
    write_layer(tmp_path / "whole.onnx", seed=6)
    folder.mkdir(parents=True)
    onnx.save(onnx.load(str(tmp_path / "whole.onnx")), str(folder / "model.onnx"), save_as_external_data=True,
              location="weights.bin", size_threshold=0)  # fmt: skip
    x = X.replace("dims: 4", "dims: [ 2, 2 ] reshape { shape: 4 }") if reshape else X
    found = imported(tmp_path, ONE + x + Y)
    assert found.path is not None, found.refused
    with Pipeline.open(found.path) as pipeline:
        answer = pipeline({"x": ROWS[0].reshape(2, 2) if reshape else ROWS[0]}).tensors["y"]
    np.testing.assert_allclose(answer, layer(ROWS[:1], 6, 3), atol=1e-6)


def ensemble(tmp_path: Path, step: str) -> Moved:
    """An ensemble over the models of `write_repository`, with other steps."""
    models = write_repository(tmp_path / "models")
    (models / "both" / "config.pbtxt").write_text(
        'platform: "ensemble" max_batch_size: 8 input { name: "IN" data_type: TYPE_FP32 dims: 4 } '
        'output { name: "OUT" data_type: TYPE_FP32 dims: 3 } ensemble_scheduling { step [ ' + step + " ] }",
        "utf-8",
    )
    found = list(import_triton(models, tmp_path / "out", models=["both"]))
    return found[-1]


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ('{ model_name: "nobody" }', 'needs the model "nobody"'),
        ('{ model_name: "plain" model_version: 9 }', 'needs the model "plain" 9'),
        ('{ model_name: "plain" input_map { key: "x" value: "LOST" } output_map { key: "y" value: "OUT" } }',
         "nothing gives a tensor"),
        ('{ model_name: "plain" input_map { key: "z" value: "IN" } output_map { key: "y" value: "OUT" } }',
         "no such input"),
        ('{ model_name: "plain" output_map { key: "y" value: "OUT" } }', "nothing is mapped"),
        ('{ model_name: "plain" input_map { key: "x" value: "IN" } output_map { key: "y" value: "OTHER" } }',
         "no step gives an output"),
        ('{ model_name: "plain" input_map { key: "x" value: "IN" } output_map { key: "y" value: "IN" } }',
         "two steps give"),
        ('{ model_name: "both" input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "OUT" } }',
         "is the ensemble"),
        ('{ }', "without steps"),
    ],
)  # fmt: skip
def test_an_ensemble_that_does_not_fit_together_is_refused(tmp_path: Path, step: str, says: str) -> None:
    assert says in ensemble(tmp_path, step).refused


def test_an_ensemble_asked_for_alone_brings_its_models(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models")
    found = list(import_triton(models, tmp_path / "out", models=["both"]))
    assert [each.source for each in found] == ["plain", "second", "both"]
    assert not any(each.refused for each in found)


def test_graphs_within_graphs_keep_their_names_in_an_ensemble(tmp_path: Path) -> None:
    """An `If` sees the tensors around it, and an empty name stays no tensor."""
    value = helper.make_tensor_value_info
    branch = helper.make_graph([helper.make_node("Neg", ["clipped"], ["r"])], "then", [], [value("r", 1, None)])
    other = helper.make_graph([helper.make_node("Identity", ["clipped"], ["r2"])], "else", [], [value("r2", 1, None)])
    nodes = [
        helper.make_node("Clip", ["p", "", "high"], ["clipped"]),
        helper.make_node("If", ["yes"], ["q"], then_branch=branch, else_branch=other),
    ]
    constants = {"high": np.array(0.3, np.float32), "yes": np.array(True)}
    models = write_repository(tmp_path / "models")
    write(
        models / "second" / "1" / "model.onnx", nodes, [value("p", 1, ["n", 3])], [value("q", 1, ["n", 3])], constants
    )
    (models / "second" / "config.pbtxt").unlink()
    config = (models / "both" / "config.pbtxt").read_text("utf-8").replace("dims: [ 2 ]", "dims: [ 3 ]")
    (models / "both" / "config.pbtxt").write_text(config, "utf-8")
    *_, found = import_triton(models, tmp_path / "out", models=["both"])
    assert found.path is not None, found.refused
    with Pipeline.open(found.path) as pipeline:
        answer = pipeline({"IN": ROWS[0]}).tensors["OUT"]
    np.testing.assert_allclose(answer, -np.minimum(layer(ROWS[:1], 0, 3), 0.3), atol=1e-6)


def write_scaler(folder: Path, version: int, scale: float) -> None:
    """A model of an operator whose domain has a version of its own: y = (x - 1) * scale."""
    value = helper.make_tensor_value_info
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[scale])
    graph = helper.make_graph([node], "g", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)]
    (folder / "1").mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(folder / "1" / "model.onnx"))
    write_config(folder, ONE + X + Y.replace("dims: 3", "dims: 4"))


@pytest.mark.parametrize(("width", "refused"), [(4, ""), (3, "is of another type")])
def test_graphs_that_cannot_be_joined_become_stages_and_that_is_told(width: int, refused: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_scaler(models / "first", 1, 2.0)
    write_scaler(models / "then", 2, 3.0)
    step = '{ model_name: "%s" input_map { key: "x" value: "%s" } output_map { key: "y" value: "%s" } }'
    steps = [step % ("then", "MIDDLE", "OUT"), step % ("first", "IN", "MIDDLE")]
    inputs, output = X.replace('"x"', '"IN"'), 'output { name: "%s" data_type: TYPE_FP32 dims: %d }\n'
    write_config(models / "both" / "1", "")
    write_config(
        models / "both",
        f'platform: "ensemble" max_batch_size: 8\n{inputs}{output % ("OUT", width)}{output % ("MIDDLE", 4)}'
        f"ensemble_scheduling {{ step [ {', '.join(steps)} ] }}",
    )
    *_, found = import_triton(models, tmp_path / "out", models=["both"], run_package=run_package)
    if refused:
        assert refused in found.refused
        return
    assert found.path is not None, found.refused
    assert any("a package of stages" in note and "ai.onnx.ml" in note for note in found.notes)
    assert [stage.package for stage in load_manifest(found.path).stages] == ["first", "then"]
    with open_pipeline(found.path, repositories=[tmp_path / "out"]) as pipeline:
        answer = pipeline({"IN": [1, 2, 3, 4]}).answer
    assert answer == {"MIDDLE": [0, 2, 4, 6], "OUT": [-3, 3, 9, 15]}


def test_two_names_that_become_one_are_told_apart(tmp_path: Path) -> None:
    for name in ("Net", "net"):
        write_layer(tmp_path / "models" / name / "1" / "model.onnx")
    found = list(import_triton(tmp_path / "models", tmp_path / "out"))
    assert sorted(bool(each.refused) for each in found) == [False, True]


def test_one_models_folder_is_a_repository_of_one(tmp_path: Path) -> None:
    write_layer(tmp_path / "models" / "one" / "1" / "model.onnx")
    (found,) = import_triton(tmp_path / "models" / "one", tmp_path / "out")
    assert found.name == "one" and not found.refused


def test_what_is_no_repository_or_no_model_of_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a Triton model repository"):
        list(import_triton(tmp_path, tmp_path / "out"))
    write_layer(tmp_path / "one" / "1" / "model.onnx")
    with pytest.raises(UsageError, match="no such model"):
        list(import_triton(tmp_path, tmp_path / "out", models=["two"]))
