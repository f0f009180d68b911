"""vectorizer.py and texts.py: pipelines that begin with texts are packed to answer as scikit-learn does."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.errors import PackageError, UsageError
from onward.package.digest import read_lock
from onward.package.importers.vectorizer import PROBES, check_tokens, vectorizer_of
from onward.package.pack import pack
from onward.runners.local import run_package

pytest.importorskip("skl2onnx", reason="needs the extra `pack`")
pytest.importorskip("pandas")

import pandas
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import BernoulliNB, ComplementNB, MultinomialNB
from sklearn.pipeline import FeatureUnion, FunctionTransformer, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

pytestmark = pytest.mark.filterwarnings("ignore")

SENTENCE = "good bad ugly great awful fine école straße κακός хорошо film movie plot actor the a of in not well-made"
WORDS = SENTENCE.split()
RANDOM = np.random.default_rng(0)
TEXTS = [" ".join(RANDOM.choice(WORDS, RANDOM.integers(1, 15))) for _ in range(200)] + list(PROBES)
CLASSES = np.array(["bad", "fair", "good"])[[min(2, text.count("good") + text.count("great")) for text in TEXTS]]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"ngram_range": (1, 2)},
    {"ngram_range": (2, 3), "lowercase": False},
    {"ngram_range": (1, 3), "stop_words": "english"},
    {"stop_words": ["the", "film", "a"]},
    {"analyzer": "char", "ngram_range": (1, 4)},
    {"analyzer": "char_wb", "ngram_range": (2, 5)},
    {"analyzer": "char_wb", "ngram_range": (4, 6), "strip_accents": "unicode"},
    {"strip_accents": "unicode"},
    {"strip_accents": "ascii"},
    {"token_pattern": r"\S+", "ngram_range": (1, 2)},
    {"token_pattern": r"(?u)\b\w+\b", "min_df": 2, "max_features": 40, "ngram_range": (1, 2)},
    {"binary": True, "norm": "l1"},
    {"sublinear_tf": True},
    {"norm": None, "use_idf": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_text_is_weighed_as_by_the_vectoriser(settings: dict[str, Any], tmp_path: Path) -> None:
    vectorizer = TfidfVectorizer(**settings)
    width = vectorizer.fit_transform(TEXTS).shape[1]
    # random weights of every column: an answer is right only where each column is
    model = make_pipeline(vectorizer, Ridge())
    model.fit(TEXTS, np.arange(len(TEXTS)))
    model[-1].coef_, model[-1].intercept_ = RANDOM.normal(size=width), 0.0
    package = pack(model, tmp_path / "out", name="m", sample=TEXTS, run_package=run_package)
    assert read_lock(package.folder).parity["max_difference"]["prediction"] < 2e-5
    unseen = ["Wholly unseen WORDS beside a good ÉCOLE of κακός films", "İ ΟΔΟΣ good\u00a0great\tfine", "plot " * 500]
    results = run_package(package.folder, [{"text": text} for text in unseen])
    found = [float(result.tensors["prediction"][0]) for result in results]
    np.testing.assert_allclose(found, model.predict(unseen), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "steps",
    [
        (TfidfVectorizer(), LogisticRegression()),
        (CountVectorizer(), MultinomialNB()),
        (TfidfVectorizer(ngram_range=(1, 2)), ComplementNB()),
        (CountVectorizer(binary=True), BernoulliNB()),
        (CountVectorizer(), TfidfTransformer(sublinear_tf=True), LinearSVC()),
        (TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)), SGDClassifier(loss="log_loss", random_state=0)),
        (TfidfVectorizer(), TruncatedSVD(5, random_state=0), StandardScaler(), LogisticRegression()),
        (TfidfVectorizer(), SelectKBest(k=5), LogisticRegression()),
        (CountVectorizer(), RandomForestClassifier(5, random_state=0)),
        (TfidfVectorizer(), CalibratedClassifierCV(LinearSVC(), cv=2)),
        (FeatureUnion([("w", TfidfVectorizer()), ("c", CountVectorizer(analyzer="char"))]), LogisticRegression()),
    ],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps),
)
def test_a_pipeline_answers_labels_and_scores_of_texts(steps: tuple[Any, ...], tmp_path: Path) -> None:
    model = make_pipeline(*steps).fit(TEXTS, CLASSES)
    package = pack(
        model, tmp_path / "out", name="m", sample=pandas.Series(TEXTS, name="review"), run_package=run_package
    )
    assert [(field.name, field.datatype, field.content) for field in package.manifest.inputs] == [
        ("review", "BYTES", "text")
    ]
    results = run_package(package.folder, [{"review": text} for text in TEXTS[:20]])
    assert [result.answer["label"] for result in results] == list(model.predict(TEXTS[:20]))
    if hasattr(model, "predict_proba"):
        found = np.concatenate([result.tensors["probabilities"] for result in results])
        np.testing.assert_allclose(found, model.predict_proba(TEXTS[:20]), atol=1e-5)


def test_texts_and_a_table_are_prepared_side_by_side(tmp_path: Path) -> None:
    rows = len(TEXTS)
    frame = pandas.DataFrame(
        {
            "title": TEXTS,
            "price": RANDOM.normal(size=rows),
            "body": TEXTS[::-1],
            "kind": RANDOM.choice(["new", "old"], rows),
            "unused": [f"row {row}" for row in range(rows)],
        }
    )
    both = FeatureUnion([("w", TfidfVectorizer()), ("c", TfidfVectorizer(analyzer="char", ngram_range=(1, 2)))])
    columns = ColumnTransformer(
        [
            ("b", make_pipeline(CountVectorizer(), TfidfTransformer()), "body"),
            ("k", OneHotEncoder(handle_unknown="ignore"), ["kind"]),
            ("t", both, "title"),
            ("p", StandardScaler(), ["price"]),
        ]
    )
    model = make_pipeline(columns, LogisticRegression()).fit(frame, CLASSES)
    package = pack(model, tmp_path / "out", name="m", sample=frame, run_package=run_package)
    assert [(field.name, field.content) for field in package.manifest.inputs] == [
        ("title", "text"), ("price", "value"), ("body", "text"), ("kind", "value"),
    ]  # fmt: skip
    item = {"title": "A great ÉCOLE", "price": 0.25, "body": "not fine", "kind": "unheard of"}
    (answer,) = run_package(package.folder, [item])
    expected = model.predict_proba(pandas.DataFrame([item | {"unused": ""}]))
    np.testing.assert_allclose(answer.tensors["probabilities"], expected, atol=1e-5)


def test_a_sigma_is_final_where_python_has_it_so() -> None:
    """Which characters count as letters, and which are passed over, is asked of Python for each of them."""
    lower = vectorizer_of(CountVectorizer().fit(["ab"])).tokenizer.normalizer.normalize_str
    old = unicodedata.ucd_3_2_0.category  # of newer ones libraries may differ
    asked = [c for c in map(chr, range(sys.maxunicode + 1)) if old(c) not in ("Cn", "Co", "Cs", "Lo", "So")]
    marks = ["'", "\u00ad", "\u0301", ".", "\u2019", "ʰ"]
    words = [f"{mark * count}Σ{end}" for mark in marks for count in (1, 2, 8) for end in ("", mark, f"{mark * 9}Α")]
    texts = [f"Α{word}" for word in words] + words
    texts += [f"{c}Σ Α{c}Σ ΑΣ{c} ΑΣ{c}Α" for c in [*asked, *"ªⅧⓐ🄰🅐🅰語"]]
    assert [text for text in texts if lower(text) != text.lower()] == []


def test_a_text_as_long_as_a_body_is_not_cut_off() -> None:
    vectorizer = vectorizer_of(CountVectorizer(analyzer="char").fit(["ab"]))
    ids = vectorizer.tokens(["ab" * (1 << 19)], (1 << 20) + 1)
    assert ids.shape == (1, (1 << 20) + 1)


@pytest.mark.parametrize(
    ("vectorizer", "problem"),
    [
        (HashingVectorizer(n_features=8), "cannot pack this vectoriser"),
        (CountVectorizer(tokenizer=str.split, token_pattern=None), "a tokenizer of its own"),
        (CountVectorizer(preprocessor=str.upper), "a preprocessor of its own"),
        (CountVectorizer(analyzer=str.split), "functions or files of its own"),
        (CountVectorizer(token_pattern=r"(\w)\w+"), "a group, or a flag"),
        (CountVectorizer(analyzer="char_wb"), "single characters within words"),
        (CountVectorizer(token_pattern=r"\S+", stop_words=["a"], ngram_range=(1, 2)), "stop words"),
    ],
)
def test_what_depends_on_code_or_cannot_be_made_equal_is_refused(vectorizer: Any, problem: str, tmp_path: Path) -> None:
    model = make_pipeline(vectorizer, LogisticRegression()).fit(TEXTS, CLASSES)
    with pytest.raises(UsageError, match=problem):
        pack(model, tmp_path / "out", name="m", sample=TEXTS)
    assert not (tmp_path / "out").exists()


def test_a_step_before_the_vectoriser_is_refused(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(), CountVectorizer(), LogisticRegression()).fit(TEXTS, CLASSES)
    with pytest.raises(UsageError, match="a step before the vectoriser"):
        pack(model, tmp_path / "out", name="m", sample=TEXTS)


def test_a_tokenizer_that_takes_texts_apart_otherwise_is_refused() -> None:
    one = vectorizer_of(CountVectorizer().fit(TEXTS))
    other = vectorizer_of(CountVectorizer(lowercase=False).fit(TEXTS))
    check_tokens(one, TEXTS)
    mixed = type(one)(fitted=one.fitted, terms=one.terms, ids=one.ids, tokenizer=other.tokenizer)
    with pytest.raises(PackageError, match="takes a text apart otherwise"):
        check_tokens(mixed, TEXTS)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(TEXTS, CLASSES)
    with pytest.raises(UsageError, match="not texts alone"):
        pack(model, tmp_path / "out", name="m", sample=[*TEXTS[:5], None])
