from __future__ import annotations

from pathlib import Path

import pytest

from onward.errors import ManifestError
from onward.package.manifest import ManifestProblems, parse_manifest
from onward.package.signature import read_labels, signature_of
from onward.types import TensorSpec

TEXT = """format = 1
[package]
name = "a"
version = "1"
[[input]]
name = "x"
datatype = "FP32"
shape = [3]
[[output]]
name = "y"
datatype = "FP32"
shape = [2]
"""
TABLE = TEXT.replace("shape = [3]", "shape = []") + '[[prepare]]\nstep = "table"\n'


def spec(name: str, *shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


X, Y = spec("x", -1, 3), spec("y", -1, 2)


def problem(text: str, inputs: list[TensorSpec], outputs: list[TensorSpec], folder: Path | None = None) -> str:
    with pytest.raises(ManifestError) as caught:
        signature_of(parse_manifest(text), inputs, outputs, folder=folder)
    assert not isinstance(caught.value, ManifestProblems), str(caught.value)
    return str(caught.value)


def test_a_manifest_that_fits_its_graph_gives_a_signature() -> None:
    manifest = parse_manifest(TEXT)
    signature = signature_of(manifest, [X], [Y])
    assert (signature.inputs, signature.outputs) == (manifest.inputs, manifest.outputs)
    assert (signature.tensor_inputs, signature.tensor_outputs) == ((X,), (Y,))


def test_a_free_size_fits_any_size() -> None:
    signature_of(parse_manifest(TEXT), [spec("x", -1, -1)], [spec("y", -1, -1)])


def test_a_table_gives_one_matrix_of_its_columns() -> None:
    signature_of(parse_manifest(TABLE), [spec("features", -1, 1)], [Y])
    assert "onward.toml:5: input[0]" not in problem(TABLE, [spec("features", -1, 4)], [Y])


@pytest.mark.parametrize(
    ("inputs", "outputs", "place", "message"),
    [
        ([spec("z", -1, 3)], [Y], "", ""),
        ([spec("x", -1, 4)], [Y], "onward.toml:5: input[0]", "another shape"),
        ([spec("x", -1, 3, datatype="INT64")], [Y], "onward.toml:5: input[0]", "another datatype"),
        ([X], [spec("yy", -1, 2)], "onward.toml:10: output[0].name", "no such output"),
        ([X], [spec("y", -1, 3)], "onward.toml:12: output[0].shape", "wrong shape"),
        ([X], [spec("y", -1)], "onward.toml:12: output[0].shape", "wrong shape"),
        ([X], [spec("y", -1, 2, datatype="FP64")], "onward.toml:11: output[0].datatype", "wrong datatype"),
        ([X], [Y, spec("s")], "onward.toml: execute.file", "no batch dimension"),
        ([X], [Y, spec("s", 7, 2)], "onward.toml: execute.file", "fixed batch"),
        ([spec("x", 1, 3)], [Y], "onward.toml: batching.max_batch_size", "one row at a time"),
    ],
)
def test_what_does_not_fit_names_the_key(
    inputs: list[TensorSpec], outputs: list[TensorSpec], place: str, message: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        signature_of(parse_manifest(TEXT), inputs, outputs)
    assert place in str(caught.value) and message in str(caught.value)


def test_an_input_that_no_graph_takes_is_an_error() -> None:
    text = TEXT + '[[input]]\nname = "more"\ndatatype = "FP32"\n'
    assert "onward.toml:13: input[1]: no graph takes this input" in problem(text, [X], [Y])


def test_a_tensor_that_nothing_gives_suggests_a_name() -> None:
    text = problem(TABLE + 'output = "featurs"\n', [spec("features", -1, 1)], [Y])
    assert 'nothing gives the model its tensor "features"' in text and 'did you mean "featurs"' in text


def test_padding_needs_a_tensor_with_a_free_second_dimension() -> None:
    assert "onward.toml:14: batching.pad.x: cannot be padded" in problem(TEXT + "[batching]\npad.x = 0\n", [X], [Y])
    assert "no such tensor" in problem(TEXT + "[batching]\npad.z = 0\n", [X], [Y])


def test_graphs_are_checked_against_their_neighbours() -> None:
    text = TABLE + '[[prepare]]\nstep = "graph"\n[[generate]]\nstep = "graph"\n'
    chain = {
        "prepare_inputs": [spec("features", -1, 1)],
        "prepare_outputs": [X],
        "model_outputs": [spec("hidden", -1, 8)],
        "generate_inputs": [spec("hidden", -1, 8)],
    }
    manifest = parse_manifest(text)
    signature_of(manifest, [X], [Y], **chain)
    for key, wrong in (("prepare_inputs", "features"), ("prepare_outputs", "x"), ("generate_inputs", "hidden")):
        with pytest.raises(ManifestError, match=r"another (shape|datatype)"):
            signature_of(manifest, [X], [Y], **chain | {key: [spec(wrong, -1, 99)]})


LABELS = TEXT + '[[generate]]\nstep = "labels"\nscores = "y"\n[[output]]\nname = "label"\ndatatype = "BYTES"\n'


def test_labels_must_be_as_many_as_scores(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    signature_of(parse_manifest(LABELS), [X], [Y], folder=tmp_path)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    text = problem(LABELS, [X], [Y], tmp_path)
    assert "generate[0].file" in text and "expected 2 labels" in text and "found 3" in text


def test_scores_that_no_graph_gives_are_named() -> None:
    text = problem(LABELS.replace('scores = "y"', 'scores = "scores"'), [X], [Y])
    assert "onward.toml:15: generate[0].scores" in text


def test_indices_must_be_integers() -> None:
    text = LABELS.replace('scores = "y"', 'scores = "y"\nindices = "i"')
    assert "generate[0].indices: wrong datatype" in problem(text, [X], [Y, spec("i", -1, 2)])
    signature_of(parse_manifest(text), [X], [Y, spec("i", -1, 2, datatype="INT64")])


def test_names_must_be_as_many_as_values() -> None:
    text = TEXT + '[[generate]]\nstep = "named"\ninput = "y"\nnames = ["a"]\n'
    assert "generate[0].names: not one name for each value; expected 2 names" in problem(text, [X], [Y])


CATALOGUE = """[[generate]]
step = "catalogue"
ids = "y"
scores = "scores"
reason = "why"
because = "about"
reasons = ["popular", "like {title}"]
"""


def test_a_catalogue_s_ids_and_reasons_must_be_integers_that_the_graph_gives() -> None:
    text = TEXT.replace('"y"\ndatatype = "FP32"', '"y"\ndatatype = "INT64"') + CATALOGUE
    y, why, about = (spec(name, -1, 2, datatype="INT64") for name in ("y", "why", "about"))
    signature_of(parse_manifest(text), [X], [y, spec("scores", -1, 2), why, about])
    assert "generate[0].because: the last graph has no such" in problem(text, [X], [y, spec("scores", -1, 2), why])
    found = problem(text, [X], [y, spec("scores", -1, 2), why, spec("about", -1, 2)])
    assert "generate[0].because: wrong datatype; expected integers; found FP32" in found


def test_labels_keep_spaces_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a b\n\nc")
    assert read_labels(tmp_path / "labels.txt") == ("a b", "", "c")
    (tmp_path / "labels.txt").write_bytes(b"\xff")
    with pytest.raises(ManifestError, match="UTF-8"):
        read_labels(tmp_path / "labels.txt")
