"""lightgbm.py: a file, an estimator and a booster are packed to answer as LightGBM does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.errors import PackageError, ParityError, UsageError
from onward.package.digest import read_lock
from onward.package.importers import treechild, treemodel, treeoriginal
from onward.package.importers.lightgbm import read_lightgbm
from onward.package.pack import pack
from onward.runners.local import run_package

pytest.importorskip("onnx", reason="needs the extra `pack`")
lightgbm = pytest.importorskip("lightgbm", reason="needs the extra `pack`")
pandas = pytest.importorskip("pandas")

pytestmark = pytest.mark.filterwarnings("ignore")
LETTERS = [*"abcdefghijklmnopqrstuvwxy", "zé"]


def table(rows: int = 800) -> Any:
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "unit price": random.normal(size=rows).round(2),
            "count": random.integers(0, 6, rows),
            "letter": pandas.Categorical(random.choice(LETTERS, rows)),
            "flag": random.choice([True, False], rows),
        }
    )
    frame.loc[random.random(rows) < 0.1, "unit price"] = np.nan
    frame.loc[random.random(rows) < 0.1, "unit price"] = 0.0
    frame.loc[random.random(rows) < 0.1, "letter"] = np.nan
    return frame


FRAME = table()
TARGET = FRAME["unit price"].fillna(0) + FRAME["count"] * FRAME["letter"].isin(list("aeiouxy")) + FRAME["flag"]
TARGETS = {"binary": (TARGET > 1.5) * 1, "multi": np.digitize(TARGET, [0, 1, 2]), "regression": TARGET + 10}
OPTIONS = {"n_estimators": 15, "min_child_samples": 5, "n_jobs": 1, "verbose": -1}


def fitted(kind: str, options: dict[str, Any]) -> Any:
    estimator = lightgbm.LGBMRegressor if kind == "regression" else lightgbm.LGBMClassifier
    return estimator(**OPTIONS, **options).fit(FRAME, TARGETS[kind])


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process takes seconds to import its library; tests with `child` in their name start it all the same."""
    if "child" in request.node.name:
        return

    def run(path: Path, library: str, folder: str, asked: dict[str, Any]) -> bool:
        treechild.answer({**asked, "library": library, "model": str(path)})
        return True

    monkeypatch.setattr(treeoriginal, "_run", run)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("binary", {}),
        ("binary", {"zero_as_missing": True}),
        ("binary", {"use_missing": False}),
        ("binary", {"sigmoid": 2.0}),
        ("binary", {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}),
        ("binary", {"boosting_type": "dart"}),
        ("multi", {}),
        ("multi", {"objective": "multiclassova"}),
        ("regression", {}),
        *(
            ("regression", {"reg_sqrt": True, "objective": objective})
            for objective in ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
        ),
        ("regression", {"objective": "gamma"}),
    ],
    ids=str,
)
def test_a_file_answers_as_lightgbm_on_every_threshold(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    fitted(kind, options).booster_.save_model(tmp_path / "model.txt")
    package = pack(tmp_path / "model.txt", tmp_path / "out", run_package=run_package)
    parity = read_lock(package.folder).parity
    assert parity["compared"] and parity["rows"] == treemodel.PROBES
    assert max(parity["max_difference"].values()) < 1e-5
    price, count, letter, _ = package.manifest.inputs
    assert (price.name, count.datatype, letter.categories) == ("unit_price", "FP32", tuple(LETTERS))
    assert price.required is ("use_missing" in options)


def test_an_objective_of_which_single_precision_has_more_is_packed_without_lightgbm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(400.0).reshape(200, 2) % 60
    data = lightgbm.Dataset(rows, (rows[:, 0] > 20) * 0.9)
    booster = lightgbm.train({"objective": "cross_entropy_lambda", "verbose": -1, "num_threads": 1}, data, 20)
    booster.save_model(tmp_path / "model.txt")
    monkeypatch.setattr(treeoriginal, "is_installed", lambda name: False)
    package = pack(tmp_path / "model.txt", tmp_path / "out", run_package=run_package)
    results = run_package(package.folder, [{"Column_0": row[0], "Column_1": row[1]} for row in rows])
    found = [float(result.tensors["prediction"][0]) for result in results]
    np.testing.assert_allclose(found, booster.predict(rows), rtol=1e-6)


def test_a_file_takes_the_names_and_kinds_of_a_sample(tmp_path: Path) -> None:
    fitted("binary", {}).booster_.save_model(tmp_path / "model.txt")
    package = pack(tmp_path / "model.txt", tmp_path / "out", sample=FRAME, run_package=run_package)
    kinds = [(field.name, field.datatype) for field in package.manifest.inputs]
    assert kinds == [("unit price", "FP32"), ("count", "INT64"), ("letter", "BYTES"), ("flag", "BOOL")]
    with pytest.raises(UsageError, match="not those of"):
        pack(tmp_path / "model.txt", tmp_path / "other", sample=FRAME[["letter", "count", "flag", "unit price"]])


def test_an_unknown_category_is_a_missing_one_as_lightgbm_has_it(tmp_path: Path) -> None:
    model = fitted("binary", {})
    package = pack(model, tmp_path / "out", sample=FRAME, run_package=run_package)
    item = {"unit price": 0.5, "count": 4, "letter": "unheard of", "flag": False}
    row = pandas.DataFrame([item])
    row["letter"] = pandas.Categorical(row["letter"], categories=LETTERS)
    (answer,) = run_package(package.folder, [item])
    np.testing.assert_allclose(answer.tensors["probabilities"], model.predict_proba(row), atol=1e-6)


@pytest.mark.parametrize("step", [0.1, 0.01])
def test_typed_decimals_that_lie_on_thresholds_take_the_original_branch(step: float, tmp_path: Path) -> None:
    steps = np.arange(0, 200)
    rows = np.round(steps[:, None] * step, 4)
    odd = rows[1::2]
    model = lightgbm.LGBMRegressor(**OPTIONS | {"min_data_in_bin": 1, "num_leaves": 90, "min_child_samples": 1})
    model.fit(odd, np.sin(odd[:, 0] / step / 3))  # thresholds are midpoints: the even steps
    package = pack(model, tmp_path / "out", sample=rows, run_package=run_package)
    assert read_lock(package.folder).parity["max_difference"]["prediction"] < 1e-5


def test_categories_that_are_numbers_come_as_whole_numbers(tmp_path: Path) -> None:
    rows = np.stack([TARGETS["multi"], np.arange(len(FRAME)) % 7], axis=1)
    data = lightgbm.Dataset(rows, (rows[:, 1] == 3) * 5 + rows[:, 0], categorical_feature=[1])
    lightgbm.train({"verbose": -1, "num_threads": 1}, data, 5).save_model(tmp_path / "model.txt")
    package = pack(tmp_path / "model.txt", tmp_path / "out", run_package=run_package)
    assert [(field.name, field.datatype) for field in package.manifest.inputs] == [
        ("Column_0", "FP32"), ("Column_1", "INT64"),
    ]  # fmt: skip
    assert read_lock(package.folder).parity["compared"]


def test_without_lightgbm_a_file_is_packed_and_the_lock_says_that_nothing_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted("multi", {})
    model.booster_.save_model(tmp_path / "model.txt")
    monkeypatch.setattr(treeoriginal, "is_installed", lambda name: False)
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\nfour\n")
    package = pack(tmp_path / "model.txt", tmp_path / "out", labels=tmp_path / "names.txt", run_package=run_package)
    assert read_lock(package.folder).parity == {"compared": False}
    (answer,) = run_package(package.folder, [{"unit_price": 0.5, "count": 4, "letter": "e", "flag": 1}])
    row = FRAME[:1].assign(count=4, flag=True, **{"unit price": 0.5})
    row["letter"] = pandas.Categorical(["e"], categories=LETTERS)
    (expected,) = model.predict_proba(row)
    np.testing.assert_allclose(answer.tensors["probabilities"][0], expected, atol=1e-6)
    assert answer.answer["label"] == ["one", "two", "three", "four"][int(np.argmax(expected))]


def test_a_column_of_no_categories_is_refused(text: str, tmp_path: Path) -> None:
    start = text.index("pandas_categorical:")
    (tmp_path / "model.txt").write_text(text[:start] + "pandas_categorical:[[]]\n")
    with pytest.raises(PackageError, match='column "letter" has no categories'):
        pack(tmp_path / "model.txt", tmp_path / "out")


@pytest.mark.parametrize("change", [("cat_boundaries=0 ", "cat_boundaries=9 "), ("cat_threshold=", "cat_threshold_=")])
def test_sets_of_categories_that_are_not_there_are_refused(change: tuple[str, str]) -> None:
    with_sets = fitted("binary", {}).booster_.model_to_string()
    assert change[0] in with_sets
    with pytest.raises(PackageError, match="not a LightGBM model"):
        read_lightgbm(with_sets.replace(*change))


@pytest.fixture(scope="module")
def text() -> str:
    written: str = fitted("binary", {}).booster_.model_to_string()
    return written


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("objective=binary", "objective=unheard", "no graph is written for objective unheard"),
        ("is_linear=0", "is_linear=1", "linear leaves"),
        ("leaf_value=", "leaf_value=1 ", "not a LightGBM model"),
        ("end of trees", "", "not a LightGBM model"),
        ("num_tree_per_iteration=1", "", "not a LightGBM model"),
        ("feature_infos=", "feature_infos=[0:1] ", "not a LightGBM model"),
        ("pandas_categorical:", f"pandas_categorical:{'[' * 99999}", "not a LightGBM model: RecursionError"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=0", "fewer trees than classes"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=16", "fewer trees than classes"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=-1", "fewer trees than classes"),
    ],
)
def test_what_a_text_does_not_say_is_refused(old: str, new: str, problem: str, text: str) -> None:
    assert old in text
    with pytest.raises(PackageError, match=problem):
        read_lightgbm(text.replace(old, new, 1))


def test_lightgbm_reads_the_file_in_a_child_process_that_may_die(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text(text)
    package = pack(tmp_path / "model.txt", tmp_path / "out")
    assert read_lock(package.folder).parity["max_difference"]["probabilities"] < 1e-6
    # the reader here is content with it, LightGBM's own is not
    (tmp_path / "model.txt").write_text(text.replace("tree_sizes=", "tree_sizes=99999 ", 1))
    with pytest.raises(PackageError, match="lightgbm itself does not take the file"):
        pack(tmp_path / "model.txt", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_tree_that_leads_back_is_refused(text: str, tmp_path: Path) -> None:
    start = text.index("left_child=") + len("left_child=")
    end = text.index("\n", start)
    (tmp_path / "model.txt").write_text(f"{text[:start]}{' '.join(['0'] * len(text[start:end].split()))}{text[end:]}")
    with pytest.raises(PackageError, match="tree 0 is broken: node 0 is reached twice"):
        pack(tmp_path / "model.txt", tmp_path / "out")


def test_a_model_that_answers_otherwise_than_its_file_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def otherwise(path: Path, library: str, rows: Any) -> Any:
        return lightgbm.Booster(model_file=path).predict(rows) + 1e-3 * (np.arange(len(rows)) == 7)

    (tmp_path / "model.txt").write_text(text)
    monkeypatch.setattr("onward.package.importers.lightgbm.answers_of_file", otherwise)
    with pytest.raises(ParityError, match=r'output "probabilities" differs from the original .* most in row 7'):
        pack(tmp_path / "model.txt", tmp_path / "out")
