"""Models of XGBoost, LightGBM, CatBoost and scikit-learn: trained, packed, served; the server answers as they do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.acceptance.conftest import serving

pytest.importorskip("skl2onnx", reason="needs the extra `pack`")
pytest.importorskip("lightgbm", reason="needs the extra `pack`")
pytest.importorskip("xgboost", reason="compares with XGBoost")
pytest.importorskip("pandas")

import lightgbm
import pandas
import xgboost
from sklearn import datasets
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import onward

pytestmark = pytest.mark.filterwarnings("ignore")
RECORDED = Path("tests/unit/package/importers/catboost_models.json")


def paragraphs() -> tuple[list[str], list[str]]:
    """Paragraphs of the descriptions of scikit-learn's data sets, each with the name of its set."""
    texts, names = [], []
    for name in ("iris", "wine", "breast_cancer", "diabetes", "digits", "linnerud"):
        for paragraph in re.split(r"\n\s*\n", str(getattr(datasets, f"load_{name}")().DESCR)):
            texts.append(paragraph)
            names.append(name)
    return texts, names


def by_command(file: Path, out: Path, *options: str) -> dict[str, Any]:
    """`onward pack FILE OUT`: what it printed."""
    argv = [sys.executable, "-m", "onward", "pack", str(file), str(out), *options]
    made = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert made.returncode == 0, made.stderr
    told: dict[str, Any] = json.loads(made.stdout)
    return told


class Packed:
    """The models, their packages in one repository, and rows to ask."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cancer = datasets.load_breast_cancer(as_frame=True).data
        self.cancer.iloc[::9, 3] = np.nan
        self.tumours = xgboost.XGBClassifier(n_estimators=40, max_depth=4, n_jobs=1)
        self.tumours.fit(self.cancer, datasets.load_breast_cancer().target)
        self.wines = datasets.load_wine(as_frame=True).data
        self.cellar = lightgbm.LGBMClassifier(n_estimators=30, n_jobs=1, verbose=-1)
        self.cellar.fit(self.wines, datasets.load_wine().target)
        self.texts, names = paragraphs()
        words = FeatureUnion([
            ("words", TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), stop_words="english")),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4))),
        ])  # fmt: skip
        self.topics = make_pipeline(words, LogisticRegression()).fit(self.texts, names)
        random = np.random.default_rng(0)
        rows = len(self.texts)
        self.tickets = pandas.DataFrame({
            "message": self.texts, "hours": random.normal(size=rows).round(2),
            "channel": random.choice(["mail", "téléphone", "chat"], rows), "priority": random.integers(0, 4, rows),
        })  # fmt: skip
        self.tickets.loc[random.random(rows) < 0.2, "hours"] = np.nan
        columns = ColumnTransformer([
            ("message", TfidfVectorizer(strip_accents="unicode"), "message"),
            ("channel", OneHotEncoder(handle_unknown="ignore"), ["channel"]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["hours", "priority"]),
        ])  # fmt: skip
        queue = np.where(self.tickets["hours"].fillna(0) + self.tickets["priority"] > 1.5, "soon", "later")
        self.triage = make_pipeline(columns, LogisticRegression()).fit(self.tickets, queue)
        self.catboost = json.loads(RECORDED.read_text("utf-8"))
        self.told: dict[str, Any] = {}

    def pack(self) -> None:
        """One by the command, the others from this process."""
        self.tumours.save_model(self.root / "tumours.ubj")
        names = self.root / "names.txt"
        names.write_text("malignant\nbenign\n")
        out = self.root / "repository" / "tumours" / "1.0.0"
        self.told = by_command(self.root / "tumours.ubj", out, "--labels", str(names))
        self.cellar.booster_.save_model(self.root / "cellar.txt")
        (self.root / "orders.json").write_text(json.dumps(self.catboost["models"]["three classes"]["model"]))
        frame = pandas.DataFrame(self.catboost["rows"]).astype({"a": float})
        for name, source, sample in (
            ("cellar", self.root / "cellar.txt", self.wines),
            ("orders", self.root / "orders.json", frame),
            ("topics", self.topics, pandas.Series(self.texts)),
            ("triage", self.triage, self.tickets),
        ):
            onward.pack(source, self.root / "repository" / name / "1.0.0", name=name, sample=sample)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    made = Packed(tmp_path_factory.mktemp("packed"))
    made.pack()
    return made


@pytest.fixture(scope="module")
def client(packed: Packed) -> Iterator[httpx.Client]:
    with serving(packed.root / "repository") as server, httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def items_of(frame: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if value == value} for row in frame.to_dict(orient="records")]


def answers(client: httpx.Client, name: str, items: list[Any]) -> list[dict[str, Any]]:
    """What the server answers, in requests of up to 64 items and one alone."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(items), 64):
        response = client.post(f"/models/{name}", json=items[start : start + 64])
        assert response.status_code == 200, response.text
        found += response.json()["answers"]
    single = client.post(f"/models/{name}", json=items[-1])
    assert single.json()["answer"]["label"] == found[-1]["label"]
    return found


def check(found: list[dict[str, Any]], probabilities: Any, classes: list[str]) -> None:
    for answer, expected in zip(found, np.asarray(probabilities), strict=True):
        for one in answer["labels"]:
            assert one["score"] == pytest.approx(expected[classes.index(one["label"])], abs=1e-5)
        assert expected[classes.index(answer["label"])] == pytest.approx(expected.max(), abs=2e-5)


def test_files_of_trees_answer_as_their_estimators(packed: Packed, client: httpx.Client) -> None:
    assert (packed.told["name"], packed.told["compared"], packed.told["rows"]) == ("tumours", True, 1024)
    found = answers(client, "tumours", items_of(packed.cancer))
    check(found, packed.tumours.predict_proba(packed.cancer), ["malignant", "benign"])
    check(answers(client, "cellar", items_of(packed.wines)), packed.cellar.predict_proba(packed.wines), ["0", "1", "2"])


def test_categories_of_catboost_are_texts_and_whole_numbers(packed: Packed, client: httpx.Client) -> None:
    recorded = packed.catboost["models"]["three classes"]
    rows = [{key: value for key, value in row.items() if value is not None} for row in packed.catboost["rows"]]
    found = answers(client, "orders", rows)
    assert [answer["label"] for answer in found] == recorded["labels"]
    check(found, recorded["answers"], ["high", "low", "middle"])


def test_texts_are_classified_as_by_their_pipeline(packed: Packed, client: httpx.Client) -> None:
    texts = [*packed.texts, "", "ÉCOLE ΟΔΟΣ 日本 x² — nothing known", "petal " * 3000]
    found = answers(client, "topics", [{"text": text} for text in texts])
    classes = list(map(str, packed.topics.classes_))
    check(found, packed.topics.predict_proba(texts), classes)
    plain = client.post("/models/topics", content="alcohol and malic acid", headers={"content-type": "text/plain"})
    assert plain.json()["answer"]["label"] == packed.topics.predict(["alcohol and malic acid"])[0]


def test_a_table_with_texts_categories_and_gaps_is_answered_as_by_its_pipeline(
    packed: Packed, client: httpx.Client
) -> None:
    frame = packed.tickets
    odd = {"message": "Où est ma commande ?", "hours": np.nan, "channel": "a channel never seen", "priority": 3}
    frame = pandas.concat([frame, pandas.DataFrame([odd])], ignore_index=True)
    found = answers(client, "triage", items_of(frame))
    check(found, packed.triage.predict_proba(frame), ["later", "soon"])
    refused = client.post("/models/triage", json={"message": "x", "channel": "mail", "priority": 1.5})
    assert refused.status_code == 400 or refused.status_code == 422
    assert "priority" in refused.text
