from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onward.errors import MissingExtra, ParityError, UsageError
from onward.package.examples import read_examples
from onward.package.importers.extra import need
from onward.package.importers.frame import frame_of
from onward.package.manifest import Labels, Table
from onward.package.pack import pack

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 4))
CLASSES = np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")
TARGET = X @ np.array([1.0, -2.0, 0.5, 3.0])


def run(folder: Path, matrix: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"features": np.asarray(matrix, dtype=np.float32)}), strict=True))


def test_a_missing_converter_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'onward\[pack\]'"):
        need("skl2onnx", "packing a scikit-learn model")


class TestFrame:
    def test_columns_keep_their_kind_and_missing_values_are_left_out(self) -> None:
        rows = np.array([[1.5, True, "a"], [None, False, "b"], [2.5, True, None]], dtype=object)
        frame = frame_of(rows, names=["n", "b", "c"])
        assert [column.kind for column in frame.columns] == ["number", "boolean", "category"]
        assert frame.items() == ({"n": 1.5, "b": True, "c": "a"}, {"b": False, "c": "b"}, {"n": 2.5, "b": True})
        np.testing.assert_array_equal(frame.matrix(), np.array([[1.5, 1, 0], [np.nan, 0, 1], [2.5, 1, np.nan]], "f"))
        assert [field.required for field in frame.fields()] == [False, True, False]

    def test_trained_categories_decide_the_index(self) -> None:
        frame = frame_of([["b"], ["c"], ["b"]], names=["c"], categories={"c": ["a", "b"]})
        np.testing.assert_array_equal(frame.matrix(), np.array([[1], [np.nan], [1]], dtype=np.float32))

    @pytest.mark.parametrize("sample", [[[1.0], [2.0]], [1.0, 2.0, 3.0], [[1], [2, 3], [4]], [[{}], [{}], [{}]]])
    def test_what_is_not_a_table_of_three_rows_is_refused(self, sample: Any) -> None:
        with pytest.raises(UsageError):
            frame_of(sample)


@pytest.fixture
def sklearn() -> Any:
    pytest.importorskip("skl2onnx")
    return pytest.importorskip("sklearn")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("sklearn")
class TestScikitLearn:
    def test_a_classifier_answers_label_and_probabilities(self, tmp_path: Path) -> None:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression().fit(X, CLASSES)
        package = pack(model, tmp_path / "out", sample=X)
        assert package.id.name == "logistic-regression"
        assert [field.name for field in package.manifest.outputs] == ["label", "probabilities"]
        assert package.manifest.prepare == (Table(columns=("x0", "x1", "x2", "x3")),)
        assert package.manifest.generate == (Labels(scores="probabilities", top_k=2),)
        assert (package.folder / "labels.txt").read_text() == "no\nyes\n"
        np.testing.assert_allclose(run(package.folder, X)["probabilities"], model.predict_proba(X), atol=1e-5)
        examples = read_examples(package.folder)
        assert len(examples) >= 3 and all(example.answer["label"] in ("yes", "no") for example in examples)

    def test_a_regressor_answers_a_prediction(self, tmp_path: Path) -> None:
        from sklearn.linear_model import LinearRegression

        package = pack(LinearRegression().fit(X, TARGET), tmp_path / "out", sample=X)
        assert [(field.name, field.shape) for field in package.manifest.outputs] == [("prediction", ())]
        np.testing.assert_allclose(run(package.folder, X)["prediction"], TARGET, atol=1e-4)

    def test_histogram_boosting_and_forests_branch_as_the_original(self, tmp_path: Path) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

        for model in (HistGradientBoostingClassifier(max_iter=10), RandomForestClassifier(5)):
            name = type(model).__name__
            package = pack(model.fit(X, CLASSES), tmp_path / name, sample=X)
            np.testing.assert_allclose(run(package.folder, X)["probabilities"], model.predict_proba(X), atol=1e-5)

    def test_a_margin_classifier_answers_scores(self, tmp_path: Path) -> None:
        from sklearn.svm import LinearSVC

        model = LinearSVC().fit(X, CLASSES)
        package = pack(model, tmp_path / "out", sample=X)
        margin = model.decision_function(X)
        np.testing.assert_allclose(run(package.folder, X)["scores"], np.stack([-margin, margin], 1), atol=1e-4)

    def test_text_columns_become_categories(self, tmp_path: Path) -> None:
        pandas = pytest.importorskip("pandas")
        from sklearn.compose import ColumnTransformer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        cities = RANDOM.choice(["Bern", "Oslo", "Rome"], 200)
        frame = pandas.DataFrame({"home city": cities, "age": RANDOM.integers(18, 90, 200), "income": X[:, 0] * 1e4})
        columns = ColumnTransformer(
            [("c", OneHotEncoder(handle_unknown="ignore"), ["home city"]), ("n", StandardScaler(), ["age", "income"])]
        )
        labels = np.where((cities == "Oslo") | (X[:, 0] > 0.3), "yes", "no")
        model = Pipeline([("columns", columns), ("model", LogisticRegression())]).fit(frame, labels)
        package = pack(model, tmp_path / "out", sample=frame[:50][frame["home city"][:50] != "Rome"])
        city, age, income = package.manifest.inputs
        assert city.categories == ("Bern", "Oslo", "Rome")  # as trained, though the sample has no Rome
        assert (age.datatype, income.datatype) == ("INT64", "FP32")
        assert package.manifest.prepare[0] == Table(columns=("home city", "age", "income"), unknown="nan")
        unknown = pandas.DataFrame({"home city": ["Paris", "Rome"], "age": [30, 40], "income": [1.0, -5e3]})
        found = run(package.folder, [[np.nan, 30, 1.0], [2, 40, -5e3]])["probabilities"]
        np.testing.assert_allclose(found, model.predict_proba(unknown), atol=1e-5)

    @pytest.mark.parametrize("scaler", ["StandardScaler", "RobustScaler", "MinMaxScaler", "MaxAbsScaler"])
    @pytest.mark.parametrize("kind", ["whole numbers", "two decimals", "FP32"])
    def test_a_forest_behind_a_scaler_takes_the_original_branch_although_values_lie_on_thresholds(
        self, scaler: str, kind: str, tmp_path: Path
    ) -> None:
        from sklearn import ensemble, preprocessing
        from sklearn.pipeline import make_pipeline

        rows = np.random.default_rng(5).normal(size=(300, 5)) * 20 + 7
        rows = rows.round(0 if kind == "whole numbers" else 1 if kind == "FP32" else 2)
        rows = rows.astype(np.float32) if kind == "FP32" else rows
        classes = np.where(rows[:, 0] + rows[:, 1] * rows[:, 2] / 20 > 10, "yes", "no")
        forest = ensemble.RandomForestClassifier(20, max_depth=6, random_state=0)
        model = make_pipeline(getattr(preprocessing, scaler)(), forest).fit(rows, classes)
        package = pack(model, tmp_path / "out", sample=rows)
        np.testing.assert_allclose(run(package.folder, rows)["probabilities"], model.predict_proba(rows), atol=1e-5)

    def test_decimals_are_found_within_a_column_transformer_behind_an_imputer(self, tmp_path: Path) -> None:
        pandas = pytest.importorskip("pandas")
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        random = np.random.default_rng(3)
        table = {"income": (random.normal(size=300) * 1000 + 3000).round(2), "city": random.choice(["a", "b"], 300)}
        frame = pandas.DataFrame({**table, "rate": random.normal(size=300).round(1)})
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        columns = ColumnTransformer([("n", numbers, ["income", "rate"]), ("c", OneHotEncoder(), ["city"])])
        classes = np.where(frame["income"] * (1 + frame["rate"] / 10) > 3000, "yes", "no")
        model = make_pipeline(columns, RandomForestClassifier(20, random_state=0)).fit(frame, classes)
        package = pack(model, tmp_path / "out", sample=frame)
        matrix = np.stack([frame["income"], frame["city"] == "b", frame["rate"]], axis=1)
        np.testing.assert_allclose(run(package.folder, matrix)["probabilities"], model.predict_proba(frame), atol=1e-5)

    def test_parity_is_refused_naming_output_and_row(self, tmp_path: Path) -> None:
        from sklearn.linear_model import LinearRegression

        model = LinearRegression().fit(X, TARGET)
        with pytest.raises(ParityError, match=r'output "prediction" differs .* most in row \d+'):
            pack(model, tmp_path / "out", sample=X, tolerance=0.0)
        assert not (tmp_path / "out").exists()

    def test_what_is_neither_classifier_nor_regressor_is_refused(self, tmp_path: Path) -> None:
        from sklearn.preprocessing import StandardScaler

        with pytest.raises(UsageError, match="cannot pack this estimator"):
            pack(StandardScaler().fit(X), tmp_path / "out", sample=X)

    def test_an_estimator_needs_a_sample(self, tmp_path: Path) -> None:
        from sklearn.linear_model import LinearRegression

        with pytest.raises(UsageError, match="needs a sample"):
            pack(LinearRegression().fit(X, TARGET), tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
class TestLightGbm:
    @pytest.fixture(autouse=True)
    def lightgbm(self) -> Any:
        return pytest.importorskip("lightgbm")

    def test_classifiers_regressors_and_boosters_answer_as_the_original(self, tmp_path: Path, lightgbm: Any) -> None:
        classifier = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(X, CLASSES)
        package = pack(classifier, tmp_path / "c", sample=X)
        np.testing.assert_allclose(run(package.folder, X)["probabilities"], classifier.predict_proba(X), atol=1e-5)
        regressor = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(X, TARGET)
        package = pack(regressor, tmp_path / "r", sample=X)
        np.testing.assert_allclose(run(package.folder, X)["prediction"], regressor.predict(X), atol=1e-4)
        booster = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X, CLASSES == "yes"), 10)
        package = pack(booster, tmp_path / "b", sample=X, name="booster")
        np.testing.assert_allclose(run(package.folder, X)["probabilities"][:, 1], booster.predict(X), atol=1e-5)

    def test_pandas_categories_become_categories(self, tmp_path: Path, lightgbm: Any) -> None:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"c": pandas.Categorical(RANDOM.choice(["a", "b", "d"], 200)), "x": X[:, 0]})
        model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(frame, (frame["c"] == "b") | (frame["x"] > 1))
        package = pack(model, tmp_path / "out", sample=frame)
        assert package.manifest.inputs[0].categories == ("a", "b", "d")
        assert (package.folder / "labels.txt").read_text() == "False\nTrue\n"
