"""sklearnparts.py and pipelinetail.py: whole pipelines of scikit-learn are packed to answer as they do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.errors import PackageError, UsageError, WrongDatatype
from onward.package.digest import read_lock
from onward.package.importers.sklearnparts import as_converted, parts_of
from onward.package.pack import pack
from onward.runners.local import run_package

pytest.importorskip("skl2onnx", reason="needs the extra `pack`")
pytest.importorskip("pandas")

import pandas
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    StandardScaler,
    TargetEncoder,
)

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = 300
RANDOM = np.random.default_rng(0)
FRAME = pandas.DataFrame(
    {
        "age": RANDOM.integers(18, 90, ROWS),
        "income": (RANDOM.normal(size=ROWS) * 1000 + 3000).round(2),
        "rate": RANDOM.normal(size=ROWS).round(3),
        "city": RANDOM.choice(["Bern", "Oslo", "Zürich"], ROWS),
        "job": RANDOM.choice(["a", "b", "c"], ROWS),
        "member": RANDOM.choice([True, False], ROWS),
        "code": RANDOM.integers(1, 5, ROWS),
    }
)
SCORE = FRAME["income"] / 1000 + FRAME["rate"] + (FRAME["city"] == "Oslo") * 2 - FRAME["age"] / 50
CLASSES = np.where(SCORE > 3, "yes", "no")
GAPS = FRAME.astype({"city": object})
for name, share in (("rate", 0.1), ("income", 0.1), ("city", 0.2)):
    GAPS.loc[RANDOM.random(ROWS) < share, name] = np.nan
NUMBERS, TEXTS = ["age", "income", "rate"], ["city", "job"]


def columns(*parts: tuple[Any, list[str]], **options: Any) -> Any:
    return ColumnTransformer([(str(place), part, names) for place, (part, names) in enumerate(parts)], **options)


def one_hot(**options: Any) -> Any:
    return OneHotEncoder(**{"handle_unknown": "ignore"} | options)


SCALED = (StandardScaler(), NUMBERS)
FILLED = (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMBERS)
ENCODED = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
LOGISTIC = LogisticRegression(max_iter=500)
FOREST = RandomForestClassifier(10, random_state=0)
PIPELINES: dict[str, tuple[Any, Any]] = {
    "one-hot": (make_pipeline(columns((one_hot(), [*TEXTS, "code"]), SCALED), LOGISTIC), FRAME),
    "drop": (make_pipeline(columns((OneHotEncoder(drop="first"), TEXTS), SCALED), LOGISTIC), FRAME),
    "infrequent": (
        make_pipeline(columns((one_hot(handle_unknown="infrequent_if_exist", min_frequency=99), TEXTS)), LOGISTIC),
        FRAME,
    ),
    "ordinal": (make_pipeline(columns((ENCODED, TEXTS), remainder="passthrough"), FOREST), FRAME),
    "target": (make_pipeline(columns((TargetEncoder(random_state=0), TEXTS), SCALED), LOGISTIC), FRAME),
    "booleans": (make_pipeline(columns((one_hot(), ["member"]), SCALED), LOGISTIC), FRAME),
    "missing one-hot": (make_pipeline(columns((one_hot(), TEXTS), FILLED), LOGISTIC), GAPS),
    "missing filled": (
        make_pipeline(
            columns((make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot()), TEXTS), FILLED), LOGISTIC
        ),
        GAPS,
    ),
    "missing constant": (
        make_pipeline(
            columns((make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), one_hot()), TEXTS), FILLED),
            LOGISTIC,
        ),
        GAPS,
    ),
    "missing ordinal": (
        make_pipeline(
            columns((OrdinalEncoder(encoded_missing_value=-2), TEXTS), ("passthrough", NUMBERS)),
            HistGradientBoostingClassifier(max_iter=10),
        ),
        GAPS,
    ),
    "functions": (
        make_pipeline(columns((FunctionTransformer(np.log1p), ["age"]), (FunctionTransformer(np.square), ["rate"])),
                      LOGISTIC), FRAME,
    ),
    "bins": (make_pipeline(columns((KBinsDiscretizer(5), ["income", "rate"])), LOGISTIC), FRAME),
    "power": (make_pipeline(columns((PowerTransformer(), ["income", "rate"])), LOGISTIC), FRAME),
    "voting": (
        make_pipeline(columns((one_hot(), TEXTS), SCALED),
                      VotingClassifier([("l", LOGISTIC), ("f", FOREST)], voting="soft")),
        FRAME,
    ),
    "one margin": (make_pipeline(columns((one_hot(), TEXTS), SCALED), RidgeClassifier()), FRAME),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PIPELINES))
def test_a_pipeline_answers_as_it_did(name: str, tmp_path: Path) -> None:
    pipeline, frame = PIPELINES[name]
    model = copy.deepcopy(pipeline).fit(frame, CLASSES)
    before = repr([(type(part), sorted(vars(part))) for part in parts_of(model)])
    package = pack(model, tmp_path / "out", name="m", sample=frame, run_package=run_package)
    assert max(read_lock(package.folder).parity["max_difference"].values()) < 1e-5
    assert repr([(type(part), sorted(vars(part))) for part in parts_of(model)]) == before
    used = {field.name for field in package.manifest.inputs}
    rows = [
        {key: value for key, value in row.items() if key in used and value == value}
        for row in frame.iloc[::7].to_dict(orient="records")
    ]
    answers = [result.answer["label"] for result in run_package(package.folder, rows)]
    assert answers == list(model.predict(frame.iloc[::7]))


def test_columns_that_nothing_looks_at_are_no_inputs(tmp_path: Path) -> None:
    model = copy.deepcopy(PIPELINES["bins"][0]).fit(FRAME, CLASSES)
    package = pack(model, tmp_path / "out", name="m", sample=FRAME)
    assert [field.name for field in package.manifest.inputs] == ["income", "rate"]


def test_an_unknown_category_is_answered_as_the_original_does(tmp_path: Path) -> None:
    model = copy.deepcopy(PIPELINES["one-hot"][0]).fit(FRAME, CLASSES)
    package = pack(model, tmp_path / "out", name="m", sample=FRAME)
    item = {"age": 30, "income": 2999.5, "rate": 0.1, "city": "Paris", "job": "a", "code": 9}
    (answer,) = run_package(package.folder, [item])
    expected = model.predict_proba(pandas.DataFrame([item | {"member": True}]))
    np.testing.assert_allclose(answer.tensors["probabilities"], expected, atol=1e-5)


RARE = FRAME.assign(
    job=[*"aaaäää", *[np.nan] * 3, *["b", "c"] * (ROWS // 2 - 5), "c"],
    city=GAPS["city"],
)


@pytest.mark.parametrize("options", [{"min_frequency": 10}, {"max_categories": 3}], ids=str)
def test_infrequent_categories_that_the_sample_does_not_show_have_one_code(
    options: dict[str, Any], tmp_path: Path
) -> None:
    encoder = OrdinalEncoder(encoded_missing_value=-2, **options)
    model = make_pipeline(columns((encoder, TEXTS), ("passthrough", ["rate"])), FOREST).fit(
        RARE, RARE["job"].fillna("?")
    )
    package = pack(model, tmp_path / "out", name="m", sample=RARE[6:], run_package=run_package)
    rows = RARE[["city", "job", "rate"]][:12]
    items = [{key: value for key, value in row.items() if value == value} for row in rows.to_dict("records")]
    found = np.concatenate([result.tensors["probabilities"] for result in run_package(package.folder, items)])
    np.testing.assert_allclose(found, model.predict_proba(RARE[:12]), atol=1e-6)


def test_infrequent_numbers_are_refused_where_their_columns_would_be_taken_for_each_other(tmp_path: Path) -> None:
    rows = np.stack([np.arange(ROWS) % 3, np.maximum(np.arange(ROWS), ROWS - 4)], axis=1)
    model = make_pipeline(OrdinalEncoder(min_frequency=10), FOREST).fit(rows, CLASSES)
    with pytest.raises(PackageError, match="infrequent categories that are numbers"):
        pack(model, tmp_path / "out", name="m", sample=rows[:9])


def test_where_missing_is_a_category_an_unknown_one_is_refused_rather_than_taken_for_it(tmp_path: Path) -> None:
    model = copy.deepcopy(PIPELINES["missing one-hot"][0]).fit(GAPS, CLASSES)
    package = pack(model, tmp_path / "out", name="m", sample=GAPS)
    item = {"age": 30, "income": 2999.5, "rate": 0.1, "job": "a"}
    (answer,) = run_package(package.folder, [item])
    row = pandas.DataFrame([item | {"city": np.nan, "member": True, "code": 1}]).astype({"city": object})
    np.testing.assert_allclose(answer.tensors["probabilities"], model.predict_proba(row), atol=1e-5)
    with pytest.raises(WrongDatatype, match="city"):
        run_package(package.folder, [item | {"city": "Paris"}])


def test_parts_are_as_before_after_a_conversion_that_failed() -> None:
    model = make_pipeline(columns((one_hot(), TEXTS), (KBinsDiscretizer(3), ["rate"])), LOGISTIC).fit(FRAME, CLASSES)
    encoder, bins = model[0].transformers_[0][1], model[0].transformers_[1][1]
    categories = encoder.categories_
    with pytest.raises(RuntimeError), as_converted(model):
        assert bins.encode == "onehot-dense"
        raise RuntimeError
    assert bins.encode == "onehot" and encoder.categories_ is categories


class TestHistogramBoostingWithCategories:
    @pytest.mark.parametrize("target", ["two", "three", "number"])
    def test_of_a_data_frame_with_gaps_and_unknown_categories(self, target: str, tmp_path: Path) -> None:
        frame = GAPS.astype({"city": "category", "job": "category", "code": "category"})[[*NUMBERS, *TEXTS, "code"]]
        kind = HistGradientBoostingRegressor if target == "number" else HistGradientBoostingClassifier
        wanted = {"two": CLASSES, "three": np.digitize(SCORE, [2, 4]), "number": SCORE.abs()}[target]
        options = {"loss": "poisson"} if target == "number" else {}
        model = kind(max_iter=15, categorical_features="from_dtype", **options).fit(frame, wanted)
        package = pack(model, tmp_path / "out", name="m", sample=frame, run_package=run_package)
        assert max(read_lock(package.folder).parity["max_difference"].values()) < 1e-5
        assert [field.datatype for field in package.manifest.inputs][3:] == ["BYTES", "BYTES", "INT64"]
        item = {"age": 30, "income": 2999.5, "rate": 0.1, "city": "Paris", "job": "b", "code": 3}
        row = pandas.DataFrame([item])
        row = row.astype({name: frame[name].dtype for name in ("city", "job", "code")})
        (answer,) = run_package(package.folder, [item])
        (expected,) = model.predict(row) if target == "number" else model.predict_proba(row)
        np.testing.assert_allclose(next(iter(answer.tensors.values())).ravel(), np.ravel(expected), atol=1e-5)

    def test_of_numbers_and_behind_an_encoder(self, tmp_path: Path) -> None:
        rows = FRAME[["rate", "code"]].to_numpy(dtype=float)
        rows[::11, 1] = np.nan
        model = HistGradientBoostingClassifier(max_iter=10, categorical_features=[1]).fit(rows, CLASSES)
        package = pack(model, tmp_path / "rows", name="m", sample=rows, run_package=run_package)
        assert read_lock(package.folder).parity["max_difference"]["probabilities"] < 1e-5
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
        trees = HistGradientBoostingClassifier(max_iter=10, categorical_features=[0, 1])
        pipeline = make_pipeline(columns((encoder, TEXTS), ("passthrough", NUMBERS)), trees).fit(FRAME, CLASSES)
        package = pack(pipeline, tmp_path / "pipeline", name="m", sample=FRAME, run_package=run_package)
        assert read_lock(package.folder).parity["max_difference"]["probabilities"] < 1e-5
        item = {"age": 30, "income": 2999.5, "rate": 0.1, "city": "Paris", "job": "b"}
        (answer,) = run_package(package.folder, [item])
        expected = pipeline.predict_proba(pandas.DataFrame([item | {"member": True, "code": 1}]))
        np.testing.assert_allclose(answer.tensors["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), "cannot be converted to ONNX"),
        (make_pipeline(FunctionTransformer(lambda x: x + 1), Ridge()), "cannot be converted to ONNX"),
    ],
)
def test_what_no_graph_can_say_is_refused(model: Any, problem: str, tmp_path: Path) -> None:
    rows = FRAME[NUMBERS]
    with pytest.raises(PackageError, match=problem):
        pack(model.fit(rows, SCORE.abs()), tmp_path / "out", name="m", sample=rows)


class TestBoostedTreesAtTheEnd:
    def check(self, model: Any, sample: Any, target: Any, folder: Path) -> None:
        package = pack(model.fit(sample, target), folder / "out", name="m", sample=sample, run_package=run_package)
        assert max(read_lock(package.folder).parity["max_difference"].values()) < 1e-5

    @pytest.mark.parametrize("scaler", ["StandardScaler", "passthrough"])
    def test_of_lightgbm(self, scaler: str, tmp_path: Path) -> None:
        lightgbm = pytest.importorskip("lightgbm")
        trees = lightgbm.LGBMClassifier(n_estimators=10, n_jobs=1, verbose=-1)
        numbers = StandardScaler() if scaler == "StandardScaler" else scaler
        self.check(make_pipeline(columns((one_hot(), TEXTS), (numbers, NUMBERS)), trees), FRAME, CLASSES, tmp_path)

    @pytest.mark.parametrize("sparse", [True, False])
    def test_of_xgboost_to_which_a_zero_of_a_sparse_matrix_is_missing(self, sparse: bool, tmp_path: Path) -> None:
        xgboost = pytest.importorskip("xgboost")
        trees = xgboost.XGBClassifier(n_estimators=10, n_jobs=1)
        front = columns((one_hot(sparse_output=sparse), [*TEXTS, "code"]), (StandardScaler(), ["income"]))
        self.check(make_pipeline(front, trees), FRAME, (CLASSES == "yes") * 1, tmp_path)

    def test_of_xgboost_for_rows_with_a_zero_though_the_sample_has_none(self, tmp_path: Path) -> None:
        xgboost = pytest.importorskip("xgboost")
        frame = FRAME.assign(
            rate=FRAME["rate"].where(FRAME["rate"] > 0, 0.0), place=[f"p{i % 30}" for i in range(ROWS)]
        )
        front = columns((one_hot(), ["place"]), ("passthrough", ["rate"]))
        model = make_pipeline(front, xgboost.XGBRegressor(n_estimators=5, max_depth=2, n_jobs=1))
        model.fit(frame, np.where(frame["rate"] == 0, 5.0, frame["rate"] > 0.3))
        assert model[0].sparse_output_
        package = pack(model, tmp_path / "out", name="m", sample=frame[frame["rate"] > 0], run_package=run_package)
        rows = frame[frame["rate"] == 0][:5]
        items = rows[["place", "rate"]].to_dict("records")
        found = [float(result.tensors["prediction"][0]) for result in run_package(package.folder, items)]
        np.testing.assert_allclose(found, model.predict(rows), atol=1e-5)

    def test_behind_texts_whose_weights_lie_on_thresholds(self, tmp_path: Path) -> None:
        xgboost = pytest.importorskip("xgboost")
        words = ["good", "bad", "fine", "film", "plot"]
        texts = [" ".join(RANDOM.choice(words, RANDOM.integers(1, 9))) for _ in range(200)]
        trees = xgboost.XGBClassifier(n_estimators=10, n_jobs=1)
        target = [int(text.count("good") > 1) for text in texts]
        self.check(make_pipeline(TfidfVectorizer(), trees), texts, target, tmp_path)

    def test_that_take_categories_are_refused(self, tmp_path: Path) -> None:
        lightgbm = pytest.importorskip("lightgbm")
        frame = FRAME[["city", "age"]].astype({"city": "category"})
        trees = lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1)
        with pytest.raises(UsageError):
            self.check(make_pipeline(FunctionTransformer(), trees), frame, CLASSES, tmp_path)
