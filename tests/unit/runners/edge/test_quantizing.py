"""A smaller model says how far it is from the original, is refused where that is too far, and is whole or not there."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onward.errors import (
    MissingExtra,
    NotForEdge,
    NothingToQuantize,
    OnwardError,
    QuantizedTooFar,
    RefusedGraph,
    UsageError,
)
from onward.package.examples import Example
from onward.package.package import Package, open_package
from onward.runners.edge import quantizing
from onward.runners.edge.quantizing import SETTINGS, Material, quantize, table
from tests.packages import field_toml, graph, manifest, mlp_package, reader_package, sleeper_package, value, write

WIDTH = 64
CLASSES = 5
rng = np.random.default_rng(11)
ROWS = [{"x": rng.normal(0, 1, WIDTH).round(4).tolist()} for _ in range(40)]
IDS = [{"ids": rng.integers(0, 400, 6).tolist()} for _ in range(40)]


def vectors(folder: Path, **more: Any) -> Path:
    """`x` [64] → `vector` [32]: two layers whose inputs differ in size, as those of real networks do."""
    sizes = np.exp(np.random.default_rng(2).normal(0, 1, WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "sizes"], ["sized"]),
        helper.make_node("Gemm", ["sized", "w0", "b0"], ["z"]),
        helper.make_node("Tanh", ["z"], ["a"]),
        helper.make_node("MatMul", ["a", "w1"], ["vector"]),
    ]
    constants = {"sizes": sizes, "w0": normal(0, WIDTH, 96) / 12, "b0": normal(1, 96) / 9, "w1": normal(2, 96, 32)}
    made = graph(nodes, [value("x", TensorProto.FLOAT, ["n", WIDTH])],
                 [value("vector", TensorProto.FLOAT, ["n", 32])], constants)  # fmt: skip
    fields = [field_toml("input", "x", "FP32", (WIDTH,)), field_toml("output", "vector", "FP32", (32,))]
    return packed(folder, "vectors", fields, made, ROWS[:4], **more)


def classes(folder: Path) -> Path:
    """`x` [64] → a label of five."""
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["a"]),
        helper.make_node("Gemm", ["a", "w1"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"]),
    ]
    constants = {"w0": normal(0, 96, WIDTH), "b0": normal(1, 96), "w1": normal(2, 96, CLASSES) / 20}
    made = graph(nodes, [value("x", TensorProto.FLOAT, ["n", WIDTH])],
                 [value("scores", TensorProto.FLOAT, ["n", CLASSES])], constants)  # fmt: skip
    fields = [field_toml("input", "x", "FP32", (WIDTH,)), field_toml("output", "scores", "FP32", (CLASSES,))]
    more = '[[generate]]\nstep = "labels"\nscores = "scores"\nfile = "labels.txt"\ntop_k = 5\n'
    return packed(folder, "classes", fields, made, ROWS[:4], more=more, files={"labels.txt": "a\nb\nc\nd\ne\n"})


def words(folder: Path) -> Path:
    """`ids` [6] → `vector` [64]: rows of a table that is multiplied by as well, so that two kinds share it."""
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "across"], ["vector"]),
        helper.make_node("Gather", ["across", "first"], ["row"]),
        helper.make_node("Add", ["vector", "row"], ["sum"]),
    ]
    constants = {
        "words": normal(0, 400, WIDTH), "across": normal(1, WIDTH, WIDTH), "axis": np.array([1], np.int64),
        "first": np.array([0], np.int64),
    }  # fmt: skip
    made = graph(nodes, [value("ids", TensorProto.INT64, ["n", 6])], [value("sum", TensorProto.FLOAT, ["n", WIDTH])],
                 constants)  # fmt: skip
    fields = [field_toml("input", "ids", "INT64", (6,)), field_toml("output", "sum", "FP32", (WIDTH,))]
    return packed(folder, "words", fields, made, IDS[:4])


def pictures(folder: Path) -> Path:
    """`x` [3, 8, 8] → `vector` [40], by two convolutions."""
    nodes = [
        helper.make_node("Conv", ["x", "f0", "b0"], ["c0"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "f1"], ["c1"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["c1"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
    ]
    constants = {"f0": normal(0, 48, 3, 3, 3), "b0": normal(1, 48), "f1": normal(2, 40, 48, 1, 1)}
    made = graph(nodes, [value("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
                 [value("vector", TensorProto.FLOAT, ["n", 40])], constants)  # fmt: skip
    fields = [field_toml("input", "x", "FP32", (3, 8, 8)), field_toml("output", "vector", "FP32", (40,))]
    return packed(folder, "pictures", fields, made, PHOTOS[:4])


def normal(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


PHOTOS = [{"x": normal(100 + number, 3, 8, 8).tolist()} for number in range(24)]


def packed(
    folder: Path, name: str, fields: list[str], made: onnx.ModelProto, items: Sequence[Any], *, more: str = "",
    files: dict[str, str] | None = None, examples: bool = True,
) -> Path:  # fmt: skip
    """The package, with what its model gives for `items` as golden examples."""
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    given, found = session.get_inputs()[0], session.get_outputs()[0].name
    kind = np.int64 if "int64" in given.type else np.float32
    golden = [
        Example(name=str(number), input=item, tolerance=1e-4,
                tensors={found: session.run([found], {given.name: np.array([item[given.name]], kind)})[0]})
        for number, item in enumerate(items)
    ]  # fmt: skip
    text = manifest(name, fields, more=more)
    return write(folder, text, {"model.onnx": made}, files=files, examples=golden if examples else None)


PACKAGES: dict[str, tuple[Callable[[Path], Path], Sequence[Any]]] = {
    "vectors": (vectors, ROWS), "classes": (classes, ROWS), "words": (words, IDS), "pictures": (pictures, PHOTOS),
}  # fmt: skip


@pytest.fixture(scope="module", params=PACKAGES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Sequence[Any]]:
    """Each of the packages, with inputs for it."""
    make, inputs = PACKAGES[request.param]
    return open_package(make(tmp_path_factory.mktemp(request.param) / "package")), inputs


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return open_package(vectors(tmp_path / "package"))


def outputs(file: Path, items: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A model's first output for each input, by onnxruntime alone."""
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    kind = np.int64 if "int64" in given.type else np.float32
    rows = [session.run(None, {given.name: np.array([item[given.name]], kind)})[0][0] for item in items]
    return np.array(rows, np.float64)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_agreement_told_is_that_of_the_outputs(
    made: tuple[Package, Sequence[Any]], setting: str, tmp_path: Path
) -> None:
    package, inputs = made
    file, (trial,) = quantize(package, setting, tmp_path / "out", inputs=inputs, force=True)
    held_out = inputs[4:]
    before, after = outputs(package.folder / "model.onnx", held_out), outputs(file, held_out)
    if trial.measure == "top-1":
        same = before.argmax(axis=1) == after.argmax(axis=1)
        best = before.argmax(axis=1)[:, None]
        change = np.abs(np.take_along_axis(before - after, best, axis=1)).max()
        assert trial.agreement == pytest.approx(same.mean())
        assert trial.worst == pytest.approx(change, abs=1e-6)
    else:
        cosine = (before * after).sum(axis=1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
        assert trial.measure == "cosine"
        assert trial.agreement == pytest.approx(cosine.mean(), abs=1e-6)
        assert trial.worst == pytest.approx(cosine.min(), abs=1e-6)
    assert trial.inputs == len(held_out)
    assert trial.size_bytes == file.stat().st_size < trial.original_bytes
    assert trial.latency_ms > 0 and trial.original_latency_ms > 0


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "weights4" and name != "int8-static"])
def test_eight_bits_answer_like_the_original(made: tuple[Package, Sequence[Any]], setting: str, tmp_path: Path) -> None:
    package, inputs = made
    _, (trial,) = quantize(package, setting, tmp_path, inputs=inputs, force=True)
    assert trial.agreement > (0.97 if trial.measure == "top-1" or "tables4" in setting else 0.999)


@pytest.mark.parametrize("setting", SETTINGS)
def test_names_types_and_free_dimensions_stay(
    made: tuple[Package, Sequence[Any]], setting: str, tmp_path: Path
) -> None:
    package, inputs = made
    file, _ = quantize(package, setting, tmp_path, inputs=inputs, force=True)
    before, after = (onnx.load(str(one)).graph for one in (package.folder / "model.onnx", file))
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)
    assert file.name == "model.onnx"


def test_the_package_is_not_touched(package: Package, tmp_path: Path) -> None:
    quantize(package, "auto", tmp_path / "out", inputs=ROWS)
    assert open_package(package.folder).id == package.id


def test_of_all_settings_the_smallest_that_agrees_is_taken(package: Package, tmp_path: Path) -> None:
    file, trials = quantize(package, "auto", tmp_path, inputs=ROWS, tolerance=0.9999)
    assert len(trials) > 3
    holding = [one.size_bytes for one in trials if one.agreement >= 0.9999]
    assert 0 < len(holding) < len(trials)
    assert file.stat().st_size == min(holding)
    assert [one.holds for one in trials] == [one.agreement >= 0.9999 for one in trials]


def test_what_agrees_too_little_is_refused_with_the_table(package: Package, tmp_path: Path) -> None:
    with pytest.raises(QuantizedTooFar) as caught:
        quantize(package, "weights4", tmp_path / "out", inputs=ROWS, tolerance=0.99999)
    assert caught.value.code == "QUANTIZED_TOO_FAR"
    assert "weights4" in str(caught.value) and "too far" in str(caught.value) and "0.99999" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_told_to_it_is_written_all_the_same(package: Package, tmp_path: Path) -> None:
    file, (trial,) = quantize(package, "weights4", tmp_path, inputs=ROWS, tolerance=0.99999, force=True)
    assert not trial.holds
    assert file.stat().st_size == trial.size_bytes
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.onnx"]


def test_of_several_that_agree_too_little_the_closest_is_written(package: Package, tmp_path: Path) -> None:
    file, trials = quantize(package, "auto", tmp_path, inputs=ROWS, tolerance=1.0, force=True)
    closest = max(trials, key=lambda one: (one.holds, one.agreement))
    assert file.stat().st_size == closest.size_bytes


@pytest.mark.parametrize("fails", ["made", "loaded"])
def test_where_a_setting_fails_nothing_is_left(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def make(material: Material) -> bytes:
        if fails == "made":
            raise RuntimeError("no memory")
        return b"no model"

    broken = dataclasses.replace(SETTINGS["int8"], make=make)
    monkeypatch.setattr(quantizing, "SETTINGS", {**SETTINGS, "int8": broken})
    with pytest.raises(RuntimeError if fails == "made" else RefusedGraph):
        quantize(package, "int8", tmp_path / "out", inputs=ROWS)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_was_there_stays_where_the_new_one_is_refused(package: Package, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"before")
    with pytest.raises(QuantizedTooFar):
        quantize(package, "weights4", tmp_path, inputs=ROWS, tolerance=1.0)
    assert (tmp_path / "model.onnx").read_bytes() == b"before"


def test_a_setting_that_does_not_run_is_passed_over_among_several(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(SETTINGS["int8"], make=lambda material: b"no model")
    monkeypatch.setattr(quantizing, "SETTINGS", {**SETTINGS, "int8": broken})
    told: list[str] = []
    _, trials = quantize(package, "auto", tmp_path, inputs=ROWS, progress=told.append)
    assert trials and "int8" not in [one.setting for one in trials]
    assert any("int8 does not run" in line for line in told)


def test_golden_inputs_are_not_compared_on(package: Package, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no input"):
        quantize(package, "weights8", tmp_path, inputs=ROWS[:4])
    _, (trial,) = quantize(package, "weights8", tmp_path, inputs=ROWS[:6])
    assert trial.inputs == 2


def test_without_inputs_they_are_made_of_the_golden_examples(tmp_path: Path) -> None:
    package = open_package(words(tmp_path / "package"))
    _, (trial,) = quantize(package, "weights8", tmp_path / "out")
    assert trial.inputs == quantizing.INPUTS


def test_inputs_that_the_package_refuses_are_left_out(package: Package, tmp_path: Path) -> None:
    _, (trial,) = quantize(package, "weights8", tmp_path, inputs=[*ROWS[4:7], {"x": [1.0]}])
    assert trial.inputs == 3


def test_numbers_are_compared_by_their_spread(tmp_path: Path) -> None:
    package = open_package(mlp_package(tmp_path / "package"))
    items = [{"features": np.random.default_rng(seed).normal(0, 2, 30).tolist()} for seed in range(30)]
    file, (trial,) = quantize(package, "weights4", tmp_path / "out", inputs=items, force=True)
    before, after = (outputs(one, items)[:, 0] for one in (package.folder / "model.onnx", file))
    off = np.abs(before - after) / before.std()
    assert trial.measure == "difference"
    assert trial.agreement == pytest.approx(1 - off.mean(), abs=1e-5)
    assert trial.worst == pytest.approx(1 - off.max(), abs=1e-5)


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    package = open_package(reader_package(tmp_path / "package"))
    with pytest.raises(NothingToQuantize) as caught:
        quantize(package, "int8", tmp_path / "out", inputs=["a"])
    assert caught.value.code == "NOTHING_TO_QUANTIZE"
    assert not (tmp_path / "out").exists()


def test_code_is_refused(tmp_path: Path) -> None:
    package = open_package(sleeper_package(tmp_path / "package"))
    with pytest.raises(NotForEdge):
        quantize(package, "int8", tmp_path / "out", inputs=[[0.0]])


def test_without_golden_examples_nothing_can_be_calibrated(tmp_path: Path) -> None:
    package = open_package(vectors(tmp_path / "package", examples=False))
    with pytest.raises(UsageError, match="golden examples"):
        quantize(package, "int8-static", tmp_path / "out", inputs=ROWS)
    _, (trial,) = quantize(package, "int8", tmp_path / "out", inputs=ROWS)
    assert trial.agreement > 0.999
    _, trials = quantize(package, "auto", tmp_path / "out", inputs=ROWS)
    assert "int8-static" not in [one.setting for one in trials]


@pytest.mark.parametrize(("setting", "tolerance"), [("int3", None), ("", None), ("int8", 1.5), ("int8", float("nan"))])
def test_what_makes_no_sense_is_refused(
    package: Package, tmp_path: Path, setting: str, tolerance: float | None
) -> None:
    with pytest.raises(UsageError):
        quantize(package, setting, tmp_path / "out", tolerance=tolerance)


def test_without_onnx_it_says_what_to_install(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("quantized_graph", "quantized_ranges"):
        monkeypatch.delitem(sys.modules, f"onward.runners.edge.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"onward\[pack\]"):
        quantize(package, "int8", tmp_path / "out", inputs=ROWS)


def test_whole_numbers_never_leave_room_for_cut_off_sums(package: Package, tmp_path: Path) -> None:
    """Processors without VNNI add two products of a byte and a signed byte in 16 bits."""
    file, _ = quantize(package, "int8", tmp_path, inputs=ROWS)
    model = onnx.load(str(file)).graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.initializer}
    found = [constants[node.input[1]] for node in model.node if node.op_type == "MatMulInteger"]
    assert len(found) >= 2
    assert max(255 * 2 * int(np.abs(one.astype(int)).max()) for one in found) < 2**15


def test_the_table_has_a_line_for_each_trial(package: Package, tmp_path: Path) -> None:
    _, trials = quantize(package, "auto", tmp_path, inputs=ROWS)
    lines = table(trials).splitlines()
    assert [line.split()[0] for line in lines] == [one.setting for one in trials]


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    from gallery.embed import build
    from onward.package.assembly import assemble

    out = tmp_path_factory.mktemp("embed")
    build.build(out, progress=lambda step, share: None)
    assemble(out)
    yield open_package(out)


@pytest.mark.weights
@pytest.mark.parametrize("setting", ["int8", "auto"])
def test_minilm_is_less_than_half_as_large_and_close(embed: Package, setting: str, tmp_path: Path) -> None:
    import json

    from gallery.embed import build

    texts, _ = build.reference()
    spoken = Path(build.__file__).parents[1] / "intent" / "data" / "test.jsonl"
    texts += [json.loads(line)["text"] for line in spoken.read_text("utf-8").splitlines()[::4]]
    _, trials = quantize(embed, setting, tmp_path, inputs=texts)
    best = min((one for one in trials if one.holds), key=lambda one: one.size_bytes)
    assert best.measure == "cosine" and best.inputs > 200
    assert best.agreement >= 0.995
    assert best.worst >= 0.97
    assert best.size_bytes * 2 < best.original_bytes


def test_errors_are_ours(package: Package, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises((OnwardError, OSError)):
        quantize(package, "weights8", tmp_path / "file", inputs=ROWS)
    assert (tmp_path / "file").read_text("utf-8") == "in the way"
