"""xgboost.py: a file, an estimator and a booster are packed to answer as XGBoost does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.errors import PackageError, UsageError
from onward.package.digest import read_lock
from onward.package.importers import treechild, treemodel, treeoriginal
from onward.package.importers.xgboost import read_xgboost
from onward.package.pack import pack
from onward.runners.local import run_package

pytest.importorskip("onnx", reason="needs the extra `pack`")
xgboost = pytest.importorskip("xgboost", reason="compares with XGBoost")
pandas = pytest.importorskip("pandas")

pytestmark = pytest.mark.filterwarnings("ignore")


def table(rows: int = 600, names: str = "abcdefghijklmnopqrstuvwxyz") -> Any:
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "price": random.normal(size=rows).round(1),
            "count": random.integers(0, 6, rows),
            "letter": pandas.Categorical(random.choice(list(names), rows)),
            "flag": random.choice([True, False], rows),
        }
    )
    frame.loc[random.random(rows) < 0.1, "price"] = np.nan
    frame.loc[random.random(rows) < 0.1, "letter"] = np.nan
    return frame


FRAME = table()
TARGET = FRAME["price"].fillna(0) + FRAME["count"] * FRAME["letter"].isin(list("aeiouxy")) + FRAME["flag"]
OPTIONS = {"n_estimators": 20, "max_depth": 4, "n_jobs": 1, "enable_categorical": True}


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process takes seconds to import its library; tests with `child` in their name start it all the same."""
    if "child" in request.node.name:
        return

    def run(path: Path, library: str, folder: str, asked: dict[str, Any]) -> bool:
        treechild.answer({**asked, "library": library, "model": str(path)})
        return True

    monkeypatch.setattr(treeoriginal, "_run", run)


@pytest.mark.parametrize("suffix", [".json", ".ubj"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("binary", {}),
        ("binary", {"max_cat_to_onehot": 1}),
        ("multi", {"max_cat_to_onehot": 1}),
        ("multi", {"objective": "multi:softmax"}),
        ("binary", {"booster": "dart", "rate_drop": 0.3}),
        ("binary", {"objective": "binary:hinge"}),
        ("regression", {}),
        ("regression", {"objective": "count:poisson"}),
        ("regression", {"objective": "reg:quantileerror", "quantile_alpha": np.array([0.1, 0.9])}),
    ],
    ids=str,
)
def test_a_file_answers_as_xgboost_on_every_threshold(
    kind: str, options: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    estimator = xgboost.XGBRegressor if kind == "regression" else xgboost.XGBClassifier
    target = {"binary": (TARGET > 1.5) * 1, "multi": np.digitize(TARGET, [0, 1, 2]), "regression": TARGET + 10}[kind]
    model = estimator(**OPTIONS, **options).fit(FRAME, target)
    model.save_model(tmp_path / f"model{suffix}")
    package = pack(tmp_path / f"model{suffix}", tmp_path / "out", run_package=run_package)
    parity = read_lock(package.folder).parity
    assert parity["compared"] and parity["rows"] == treemodel.PROBES
    assert max(parity["max_difference"].values()) < 2e-6
    price, count, letter, flag = package.manifest.inputs
    assert (price.datatype, count.datatype, flag.datatype) == ("FP32", "INT64", "BOOL")
    assert letter.categories == tuple("abcdefghijklmnopqrstuvwxyz")
    assert (price.required, count.required, letter.required) == (False, True, False)


def test_a_child_process_asks_xgboost_what_it_answers(tmp_path: Path) -> None:
    model = xgboost.XGBClassifier(**OPTIONS).fit(FRAME, (TARGET > 1) * 1)
    model.save_model(tmp_path / "model.json")
    package = pack(tmp_path / "model.json", tmp_path / "out")
    assert read_lock(package.folder).parity["max_difference"]["probabilities"] < 1e-6


@pytest.mark.parametrize("names", ["abcdefghijklmnopqrstuvwxyz", "abcdeé"])
def test_an_estimator_takes_a_data_frame_with_its_categories_and_classes(names: str, tmp_path: Path) -> None:
    frame = table(names=names)
    target = (frame["letter"].isin(list(names[:3])) | (frame["price"] > 0.5)) * 1
    model = xgboost.XGBClassifier(**OPTIONS).fit(frame, target)
    package = pack(model, tmp_path / "out", sample=frame, run_package=run_package)
    assert package.manifest.inputs[2].categories == tuple(sorted(names))
    assert (package.folder / "labels.txt").read_text() == "0\n1\n"
    item = {"count": 3, "letter": names[1], "flag": True}  # no price
    row = pandas.DataFrame([item | {"price": np.nan}])[list(frame.columns)]
    row["letter"] = row["letter"].astype(frame["letter"].dtype)
    (answer,) = run_package(package.folder, [item])
    np.testing.assert_allclose(answer.tensors["probabilities"], model.predict_proba(row), atol=1e-6)


def test_a_booster_and_a_matrix_without_names_are_packed(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(300, 3)).round(1)
    booster = xgboost.train(
        {"objective": "reg:squarederror", "nthread": 1}, xgboost.DMatrix(rows, rows.sum(axis=1)), 10
    )
    package = pack(booster, tmp_path / "out", sample=rows, run_package=run_package)
    assert [field.name for field in package.manifest.inputs] == ["x0", "x1", "x2"]
    assert read_lock(package.folder).parity["max_difference"] == {"prediction": 0.0}


def test_an_estimator_that_stopped_early_answers_with_its_best_round(tmp_path: Path) -> None:
    target = (TARGET > 1.5) * 1
    model = xgboost.XGBClassifier(**OPTIONS | {"n_estimators": 60, "learning_rate": 1.0}, early_stopping_rounds=3)
    model.fit(FRAME[:300], target[:300], eval_set=[(FRAME[300:], target[300:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    model.save_model(tmp_path / "model.json")
    for source, sample in ((model, FRAME), (tmp_path / "model.json", None)):
        package = pack(source, tmp_path / f"out-{sample is None}", name="early", sample=sample)
        assert read_lock(package.folder).parity["max_difference"]["probabilities"] < 1e-6


def test_classes_of_a_file_are_named_by_a_file(tmp_path: Path) -> None:
    xgboost.XGBClassifier(**OPTIONS).fit(FRAME, (TARGET > 1) * 1).save_model(tmp_path / "model.json")
    (tmp_path / "names.txt").write_text("low\nhigh\n")
    package = pack(tmp_path / "model.json", tmp_path / "out", labels=tmp_path / "names.txt")
    assert (package.folder / "labels.txt").read_text() == "low\nhigh\n"
    (tmp_path / "names.txt").write_text("low\n")
    with pytest.raises(UsageError, match="not the model's classes"):
        pack(tmp_path / "model.json", tmp_path / "other", labels=tmp_path / "names.txt")


def test_without_xgboost_a_file_is_packed_and_the_lock_says_that_nothing_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = xgboost.XGBClassifier(**OPTIONS).fit(FRAME, (TARGET > 1) * 1)
    model.save_model(tmp_path / "model.ubj")
    monkeypatch.setattr(treeoriginal, "is_installed", lambda name: False)
    package = pack(tmp_path / "model.ubj", tmp_path / "out", run_package=run_package)
    assert read_lock(package.folder).parity == {"compared": False}
    item = {"price": 0.3, "count": 2, "letter": "e", "flag": False}
    row = pandas.DataFrame([item])
    row["letter"] = row["letter"].astype(FRAME["letter"].dtype)
    (answer,) = run_package(package.folder, [item])
    np.testing.assert_allclose(answer.tensors["probabilities"], model.predict_proba(row), atol=1e-6)


def test_categories_that_xgboost_cut_off_are_refused_or_taken_from_a_sample(tmp_path: Path) -> None:
    frame = table(names="äéîøü")
    xgboost.XGBRegressor(**OPTIONS).fit(frame, frame["count"]).save_model(tmp_path / "model.json")
    with pytest.raises(PackageError, match='does not hold the categories of "letter"'):
        pack(tmp_path / "model.json", tmp_path / "out")
    package = pack(tmp_path / "model.json", tmp_path / "out", sample=frame)
    assert package.manifest.inputs[2].categories == tuple("äéîøü")


def test_a_number_that_stands_for_missing_is_refused(tmp_path: Path) -> None:
    rows = np.ones((5, 1))
    model = xgboost.XGBRegressor(n_estimators=1, n_jobs=1, missing=-999).fit(rows, rows[:, 0])
    with pytest.raises(UsageError, match="a number for missing"):
        pack(model, tmp_path / "out", sample=rows)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("learner", "gradient_booster", "name"), "gblinear", "has no trees"),
        (("learner", "objective", "name"), "multi:unheard", "no graph is written for objective multi:unheard"),
        (("learner", "feature_names"), ["a"], "columns do not fit"),
        (("learner", "gradient_booster", "model", "trees", 0, "left_children"), None, "not an XGBoost model"),
        (
            ("learner", "gradient_booster", "model", "trees", 0, "tree_param", "size_leaf_vector"),
            "3",
            "several targets",
        ),
        (("learner", "learner_model_param"), [], "not an XGBoost model"),
        (("learner", "learner_model_param", "num_class"), float("inf"), "not an XGBoost model: OverflowError"),
        (("learner", "learner_model_param", "base_score"), "[" * 99999, "not an XGBoost model: RecursionError"),
        (("learner", "gradient_booster", "model", "trees", 0, "split_indices", 0), float("inf"), "OverflowError"),
        (("learner", "learner_model_param", "num_feature"), "1048577", "too many features"),
        (("learner", "learner_model_param", "num_class"), "3", "fewer trees than classes"),
    ],
)
def test_what_a_file_does_not_say_is_refused(path: tuple[Any, ...], value: Any, problem: str) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3))
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(rows, rows[:, 0]), 2)
    document = json.loads(bytes(booster.save_raw("json")))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(PackageError, match=problem):
        read_xgboost(document)


def test_more_columns_than_a_package_takes_are_refused_before_rows_of_them_are_made(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3))
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(rows, rows[:, 0]), 2)
    document = json.loads(bytes(booster.save_raw("json")))
    document["learner"]["learner_model_param"]["num_feature"] = "65537"
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(PackageError, match="too many columns; expected at most 65536 inputs"):
        pack(tmp_path / "model.json", tmp_path / "out")


def test_a_category_that_is_no_number_of_one_is_refused_before_rows_are_made_of_it(tmp_path: Path) -> None:
    booster = xgboost.XGBRegressor(**OPTIONS, max_cat_to_onehot=1).fit(FRAME, TARGET).get_booster()
    document = json.loads(bytes(booster.save_raw("json")))
    trees = document["learner"]["gradient_booster"]["model"]["trees"]
    next(tree for tree in trees if tree["categories_sizes"])["categories"][0] = 10**400
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(PackageError, match="a category that is none"):
        pack(tmp_path / "model.json", tmp_path / "out")


def test_sets_of_categories_that_lie_upon_each_other_are_refused() -> None:
    booster = xgboost.XGBRegressor(**OPTIONS, max_cat_to_onehot=1).fit(FRAME, TARGET).get_booster()
    document = json.loads(bytes(booster.save_raw("json")))
    trees = document["learner"]["gradient_booster"]["model"]["trees"]
    tree = next(tree for tree in trees if len(tree["categories_sizes"]) > 1)
    tree["categories_sizes"] = [len(tree["categories"])] * len(tree["categories_sizes"])
    with pytest.raises(PackageError, match="lie upon each other"):
        read_xgboost(document)


@pytest.mark.parametrize("name", ["model.json", "model.ubj", "model.txt", "model.cbm"])
@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"learner": 1}', b"{L\0", b"binf\0\0", b"[1]", b'{"learner"' + b"[" * 99999]
)
def test_a_file_of_no_known_library_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((PackageError, UsageError)):
        pack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
