from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onward.errors import ManifestError, PackageError, ParityError, RefusedGraph, UsageError
from onward.package.assembly import assemble
from onward.package.digest import read_lock
from onward.package.examples import read_examples
from onward.package.pack import pack
from onward.package.package import open_package
from onward.types import Item, PackageId, Result

FLOAT = TensorProto.FLOAT


def save(path: Path, model: Any) -> Path:
    onnx.save(model, path)
    return path


def test_an_onnx_file_becomes_a_package_with_its_signature_and_examples(tmp_path: Path, models: ModuleType) -> None:
    package = pack(save(tmp_path / "My Model.onnx", models.linear_model()), tmp_path / "out")
    assert (package.id.name, package.id.version) == ("my-model", "1.0.0")
    assert [(field.name, field.datatype, field.shape) for field in package.manifest.inputs] == [("x", "FP32", (3,))]
    assert [(field.name, field.datatype, field.shape) for field in package.manifest.outputs] == [("y", "FP32", (2,))]
    assert package.manifest.batching.max_batch_size > 1
    examples = read_examples(package.folder)
    assert len(examples) == 3
    for example in examples:
        expected = np.array(example.input["x"], dtype=np.float32) @ models.WEIGHTS
        np.testing.assert_allclose(example.tensors["y"], expected, rtol=1e-5)
    assert open_package(tmp_path / "out").id == package.id
    assert read_lock(package.folder).parity["max_difference"] == {"y": 0.0}
    assert [path.name for path in tmp_path.iterdir()] == ["My Model.onnx", "out"] or len(list(tmp_path.iterdir())) == 2


def test_packing_twice_gives_the_same_digest(tmp_path: Path, models: ModuleType) -> None:
    source = save(tmp_path / "m.onnx", models.linear_model())
    assert pack(source, tmp_path / "a").id == pack(source, tmp_path / "b").id


def test_an_archive_is_written_where_the_name_says_so(tmp_path: Path, models: ModuleType) -> None:
    package = pack(save(tmp_path / "m.onnx", models.linear_model()), tmp_path / "m.onward", name="n", version="2.0")
    assert (
        open_package(tmp_path / "m.onward").id
        == package.id
        == PackageId(name="n", version="2.0", digest=package.id.digest)
    )


def test_a_folder_with_a_manifest_is_copied_and_assembled(tmp_path: Path, models: ModuleType) -> None:
    package = pack(models.linear_folder(tmp_path / "source"), tmp_path / "out")
    assert package.id.name == "linear" and not (tmp_path / "source" / "onward.lock").exists()


def test_a_given_sample_gives_the_examples(tmp_path: Path, models: ModuleType) -> None:
    sample = np.arange(12, dtype=np.float32).reshape(4, 3)
    package = pack(save(tmp_path / "m.onnx", models.linear_model()), tmp_path / "out", sample=sample)
    assert [example.input["x"] for example in read_examples(package.folder)] == sample.tolist()


def test_a_fixed_batch_of_one_is_served_one_at_a_time(tmp_path: Path, models: ModuleType) -> None:
    package = pack(save(tmp_path / "m.onnx", models.linear_model(1)), tmp_path / "out")
    assert package.manifest.batching.max_batch_size == 1


def test_another_fixed_batch_is_refused_with_what_would_be_right(tmp_path: Path, models: ModuleType) -> None:
    with pytest.raises(PackageError, match="dynamic batch axis"):
        pack(save(tmp_path / "m.onnx", models.linear_model(8)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_batch_dimension_is_refused(tmp_path: Path, models: ModuleType) -> None:
    value = [helper.make_tensor_value_info(name, FLOAT, []) for name in "xy"]
    model = models.model([helper.make_node("Neg", ["x"], ["y"])], inputs=value[:1], outputs=value[1:])
    with pytest.raises(PackageError, match="no batch dimension"):
        pack(save(tmp_path / "m.onnx", model), tmp_path / "out")


def test_rows_that_depend_on_each_other_are_refused(tmp_path: Path, models: ModuleType) -> None:
    model = models.model(
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        outputs=[helper.make_tensor_value_info("y", FLOAT, ["batch", 3])],
    )
    with pytest.raises(ParityError, match="depends on the other rows"):
        pack(save(tmp_path / "m.onnx", model), tmp_path / "out")


def test_an_output_without_a_row_for_each_row_is_refused(tmp_path: Path, models: ModuleType) -> None:
    model = models.model(
        [helper.make_node("Reshape", ["x", "flat"], ["y"])],
        outputs=[helper.make_tensor_value_info("y", FLOAT, ["n"])],
        initializers=[numpy_helper.from_array(np.array([-1]), "flat")],
    )
    with pytest.raises(PackageError, match="row for each row"):
        pack(save(tmp_path / "m.onnx", model), tmp_path / "out")


def test_a_training_graph_is_refused(tmp_path: Path, models: ModuleType) -> None:
    node = helper.make_node("Gradient", ["x"], ["y"], domain="ai.onnx.preview.training")
    with pytest.raises(RefusedGraph):
        pack(save(tmp_path / "m.onnx", models.model([node])), tmp_path / "out")


def test_external_data_travels_with_the_model(tmp_path: Path, models: ModuleType) -> None:
    model = models.linear_model()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    package = pack(tmp_path / "m.onnx", tmp_path / "out")
    assert (package.folder / "weights.bin").is_file()


def test_a_text_model_can_be_packed(tmp_path: Path, models: ModuleType) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.STRING, ["n", 1]) for name in "xy"]
    model = models.model([helper.make_node("Identity", ["x"], ["y"])], inputs=value[:1], outputs=value[1:])
    package = pack(save(tmp_path / "m.onnx", model), tmp_path / "out")
    assert package.manifest.inputs[0].datatype == "BYTES"
    assert read_examples(package.folder)[0].tensors == {"y": ["a"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../x"}, "not a package name"),
        ({"version": "v1"}, "not a version"),
        ({"sample": np.zeros((2, 4))}, "does not fit input"),
        ({"sample": {"z": np.zeros((2, 3))}}, "other inputs"),
        ({"sample": np.zeros((0, 3))}, "differ in rows"),
    ],
)
def test_a_call_that_makes_no_sense_says_why(
    tmp_path: Path, models: ModuleType, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        pack(save(tmp_path / "m.onnx", models.linear_model()), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_packed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        pack(tmp_path / "m.onnx", tmp_path / "out")
    (tmp_path / "m.pkl").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot pack this kind of file"):
        pack(tmp_path / "m.pkl", tmp_path / "out")
    with pytest.raises(UsageError, match="cannot pack this"):
        pack(object(), tmp_path / "out", sample=[[1]])


def test_nothing_is_overwritten(tmp_path: Path, models: ModuleType) -> None:
    source = save(tmp_path / "m.onnx", models.linear_model())
    pack(source, tmp_path / "out")
    with pytest.raises(UsageError, match="something already"):
        pack(source, tmp_path / "out")


def answers(offset: float, models: ModuleType) -> Any:
    def run(folder: Path, items: Sequence[Item]) -> list[Result]:
        package = open_package(folder)
        rows = [np.asarray(item["x"], dtype=np.float32)[None] @ models.WEIGHTS for item in items]
        rows[1] = rows[1] + np.float32(offset)
        return [Result(answer={}, tensors={"y": row}, package=package.id) for row in rows]

    return run


def test_the_package_is_compared_as_it_will_be_served(tmp_path: Path, models: ModuleType) -> None:
    source = save(tmp_path / "m.onnx", models.linear_model())
    pack(source, tmp_path / "right", run_package=answers(0.0, models))
    with pytest.raises(ParityError, match=r'output "y" differs .* by up to 0.5 .* most in row 1'):
        pack(source, tmp_path / "wrong", run_package=answers(0.5, models))
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + '[execute]\nfile = "modle.onnx"\n', 'did you mean "model.onnx"'),
        (lambda text: text.replace("[2]", "[7]"), "wrong shape"),
        (lambda text: text + '[[generate]]\nstep = "labels"\nscores = "y"\n', "no such file"),
    ],
)
def test_assembly_checks_the_manifest_against_the_files(
    tmp_path: Path, models: ModuleType, change: Any, message: str
) -> None:
    folder = models.linear_folder(tmp_path / "p", change(models.MANIFEST))
    with pytest.raises(ManifestError, match=message):
        assemble(folder)
    assert not (folder / "onward.lock").exists()


def test_assembly_refuses_pickles_bad_examples_and_bad_policies(tmp_path: Path, models: ModuleType) -> None:
    for name, text in (("m.pkl", "x"), ("examples.jsonl", "{"), ("policy.toml", "[[")):
        folder = models.linear_folder(tmp_path / name)
        (folder / name).write_text(text)
        with pytest.raises(PackageError):
            assemble(folder)


def test_assembly_again_drops_an_old_lock(tmp_path: Path, models: ModuleType) -> None:
    folder = models.linear_folder(tmp_path / "p")
    first = assemble(folder)
    (folder / "card.md").write_text("# A card\n")
    second = assemble(folder)
    assert first.id.digest != second.id.digest
    assert open_package(folder).id == second.id
