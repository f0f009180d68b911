"""catboost.py: files and estimators are packed to answer as CatBoost does, by its answers in catboost_models.json."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.errors import MissingExtra, PackageError, UsageError
from onward.package.digest import read_lock
from onward.package.importers import treechild, treeoriginal
from onward.package.importers.catboost import read_catboost
from onward.package.importers.frame import frame_of
from onward.package.pack import pack
from onward.runners.local import run_package

pytest.importorskip("onnx", reason="needs the extra `pack`")
pandas = pytest.importorskip("pandas")

pytestmark = pytest.mark.filterwarnings("ignore")
RECORDED = json.loads(Path(__file__).with_name("catboost_models.json").read_text(encoding="utf-8"))
FRAME = pandas.DataFrame(RECORDED["rows"]).astype({"a": float})
ITEMS = [{name: value for name, value in row.items() if value is not None} for row in RECORDED["rows"]]


COUNTED = RECORDED["models"]["two classes"]["model"]["features_info"]["ctrs"][0]["identifier"]


def model_of(name: str) -> Any:
    return copy.deepcopy(RECORDED["models"][name]["model"])


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if CatBoost were not installed."""
    monkeypatch.setattr(treeoriginal, "is_installed", lambda name: False)


def packed(document: Any, folder: Path, **options: Any) -> Any:
    (folder / "model.json").write_text(json.dumps(document))
    return pack(folder / "model.json", folder / "out", run_package=run_package, **options)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", list(RECORDED["models"]))
def test_a_file_answers_as_catboost_did(name: str, tmp_path: Path) -> None:
    package = packed(model_of(name), tmp_path, sample=FRAME)
    assert read_lock(package.folder).parity == {"compared": False}
    inputs = {field.name: field for field in package.manifest.inputs}
    assert {name: field.datatype for name, field in inputs.items()} == {
        "a": "FP32", "n": "INT64", "c": "BYTES", "d": "BYTES",
    }  # fmt: skip
    assert not inputs["a"].required and inputs["c"].required and "zé" in inputs["c"].categories
    results = run_package(package.folder, ITEMS)
    output = "probabilities" if RECORDED["models"][name]["labels"] else "prediction"
    found = np.concatenate([result.tensors[output] for result in results])
    np.testing.assert_allclose(found, RECORDED["models"][name]["answers"], rtol=2e-6, atol=2e-6)
    if output == "probabilities":
        assert [result.answer["label"] for result in results] == RECORDED["models"][name]["labels"]


@pytest.mark.usefixtures("alone")
def test_an_unknown_category_is_one_that_was_never_counted(tmp_path: Path) -> None:
    package = packed(model_of("two classes"), tmp_path, sample=FRAME)
    known, unknown, other, number = (
        result.tensors["probabilities"][0, 1]
        for result in run_package(
            package.folder, [ITEMS[5], ITEMS[5] | {"c": "unheard of"}, ITEMS[5] | {"c": ""}, ITEMS[5] | {"n": 77}]
        )
    )
    assert unknown == other
    assert unknown != known != number


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", ["two classes", "combinations", "all by name"])
def test_a_sample_without_a_category_of_training_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not show every category of .*c"):
        packed(model_of(name), tmp_path, sample=FRAME[FRAME["c"] != "zé"])
    with pytest.raises(UsageError, match='the file has the categories of "n" as hashes only'):
        packed(model_of(name), tmp_path)


@pytest.mark.usefixtures("alone")
def test_a_cbm_file_needs_catboost_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.cbm").write_bytes(b"CBM1" + bytes(64))
    with pytest.raises(MissingExtra, match=r"reading a \.cbm file needs CatBoost"):
        pack(tmp_path / "model.cbm", tmp_path / "out")


def change(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("features_info", "text_features"), [{}], "the model has text features"),
        (("model_info", "params", "loss_function", "type"), "RMSEWithUncertainty", "no graph is written for loss"),
        (("oblivious_trees", 0, "leaf_values"), [0.0], "not a CatBoost model"),
        (("oblivious_trees", 0, "splits", 0, "split_type"), "EstimatedFeature", "not a CatBoost model"),
        (("features_info", "float_features", 0, "flat_feature_index"), 9, "not a CatBoost model"),
        (("features_info", "ctrs", 0, "ctr_type"), "Unheard", "not a CatBoost model"),
        (("features_info", "ctrs", 0, "borders"), [0.5], "not a CatBoost model"),
        (("scale_and_bias",), None, "not a CatBoost model"),
        (("features_info", "float_features", 0, "flat_feature_index"), float("inf"), "model: OverflowError"),
        (("ctr_data", COUNTED, "hash_stride"), 0, "model: ZeroDivisionError"),
    ],
)
def test_what_a_file_does_not_say_is_refused(path: tuple[Any, ...], value: Any, problem: str) -> None:
    with pytest.raises(PackageError, match=problem):
        read_catboost(change(model_of("two classes"), path, value), sample=frame_of(FRAME))


class TestWithCatBoost:
    @pytest.fixture(autouse=True)
    def catboost(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """CatBoost is asked in this process: importing it in a child takes seconds."""

        def run(path: Path, library: str, folder: str, asked: dict[str, Any]) -> bool:
            treechild.answer({**asked, "library": library, "model": str(path)})
            return True

        monkeypatch.setattr(treeoriginal, "_run", run)
        return pytest.importorskip("catboost", reason="compares with CatBoost, which is no dependency")

    def test_estimators_and_both_kinds_of_file_are_compared(self, tmp_path: Path, catboost: Any) -> None:
        options = {"iterations": 20, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
        target = np.array(["low", "high", "top"])[np.digitize(FRAME["a"].fillna(0) + FRAME["n"], [1, 2])]
        model = catboost.CatBoostClassifier(**options, cat_features=["n", "c", "d"]).fit(FRAME, target)
        sources: list[Any] = [model]
        for kind in ("json", "cbm"):
            model.save_model(tmp_path / f"model.{kind}", format=kind)
            sources.append(tmp_path / f"model.{kind}")
        for number, source in enumerate(sources):
            package = pack(source, tmp_path / str(number), name="m", sample=FRAME, run_package=run_package)
            assert read_lock(package.folder).parity["max_difference"]["probabilities"] < 1e-6
        numbers = FRAME[["a", "n"]]
        regressor = catboost.CatBoostRegressor(**options).fit(numbers.to_numpy(), numbers["n"] * 1000.0)
        regressor.save_model(tmp_path / "numbers.cbm")
        package = pack(tmp_path / "numbers.cbm", tmp_path / "numbers", run_package=run_package)
        assert [field.name for field in package.manifest.inputs] == ["x0", "x1"]
        assert read_lock(package.folder).parity["compared"]
