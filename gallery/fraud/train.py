"""Fits the fraud detector on the first 70 % of the transactions in time; the rest is not looked at here.

Every choice in `Recipe` was made by forward chaining inside those 70 % (see card.md). The build is deterministic:
fixed seeds, one thread for the boosted trees, and bagging that depends on the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gallery.fraud.fields import FIELDS
from gallery.fraud.forest import boosted_trees, isolation_trees
from gallery.fraud.graphs import Detector, Floats

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]
Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class Transactions:
    """Rows in order of time: features FP32 [n, 30] in the order of `FIELDS`, labels [n], 1 a fraud."""

    features: Rows
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: float, stop: float) -> Transactions:
        """Rows from one share of the time line to another, 0 ≤ start < stop ≤ 1."""
        first, last = int(len(self) * start), int(len(self) * stop)
        return Transactions(features=self.features[first:last], labels=self.labels[first:last])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is chosen rather than fitted.

    calibration_from: shares of the training rows; each part from one to the next is scored by trees that saw only
        earlier rows, and the calibration is fitted on those scores.
    review_cost, missed_fee: cost matrix, in euros.
    unusual_share: share of the training rows that may be called unusual.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3)
    rounds: int = 300
    learning_rate: float = 0.05
    leaves: int = 15
    leaf_rows: int = 20
    l2: float = 1.0
    fraud_weight: float = 0.1
    row_share: float = 0.7
    column_share: float = 0.5
    calibration_from: tuple[float, ...] = (0.5, 0.75, 1.0)
    review_cost: float = 5.0
    missed_fee: float = 25.0
    isolation_trees: int = 100
    isolation_rows: int = 1024
    unusual_share: float = 0.002


TRAINED_SHARE = 0.7
RECIPE = Recipe()


def read_transactions(csv: Path) -> Transactions:
    """Read creditcard.csv: a header, then Time, V1…V28, Amount and the quoted Class, sorted by Time."""
    with csv.open() as file:
        header = file.readline().replace('"', "").strip().split(",")
        if header != [*FIELDS, "Class"]:
            raise ValueError(f"{csv.name} has the columns {header}")
        table = np.loadtxt(file, delimiter=",", quotechar='"')
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Transactions(features=table[:, :-1].astype(np.float32), labels=table[:, -1].astype(np.int64))


def learned(features: Rows) -> Rows:
    """What the trees see, FP32 [n, 29]: all but Time, because two days say nothing that lasts about the hour."""
    return np.ascontiguousarray(features[:, 1:])


def grow(rows: Transactions, recipe: Recipe, seed: int) -> Any:
    """One LightGBM booster on the rows, its score a log-odds."""
    import lightgbm

    settings = {
        "objective": "binary",
        "learning_rate": recipe.learning_rate,
        "num_leaves": recipe.leaves,
        "min_data_in_leaf": recipe.leaf_rows,
        "lambda_l2": recipe.l2,
        "scale_pos_weight": recipe.fraud_weight,
        "bagging_fraction": recipe.row_share,
        "bagging_freq": 1,
        "feature_fraction": recipe.column_share,
        "seed": seed,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(learned(rows.features), rows.labels)
    return lightgbm.train(settings, data, num_boost_round=recipe.rounds)


def grow_all(rows: Transactions, recipe: Recipe) -> list[Any]:
    """One booster a seed. Each grows on one thread, so how many grow at once changes nothing."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda seed: grow(rows, recipe, seed), recipe.seeds))


def scores(boosters: list[Any], features: Rows) -> Floats:
    """Mean log-odds of the boosters, [n]."""
    columns = learned(features)
    each = np.array([booster.predict(columns, raw_score=True, num_threads=1) for booster in boosters], np.float64)
    mean: Floats = each.mean(axis=0)
    return mean


def scores_ahead(train: Transactions, recipe: Recipe) -> tuple[Floats, Labels]:
    """Scores of the later training rows by trees that saw only earlier ones, and the labels of those rows."""
    found, labels = [], []
    for start, stop in zip(recipe.calibration_from, recipe.calibration_from[1:], strict=False):
        boosters = grow_all(train.part(0.0, start), recipe)
        ahead = train.part(start, stop)
        found.append(scores(boosters, ahead.features))
        labels.append(ahead.labels)
    return np.concatenate(found), np.concatenate(labels)


def calibrate(found: Floats, labels: Labels) -> tuple[float, float]:
    """Slope and intercept with which sigmoid(slope * score + intercept) is the likeliest probability."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(found[:, None], labels)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def isolate(train: Transactions, recipe: Recipe) -> tuple[Any, float]:
    """An isolation forest on the training rows, and the score above which `unusual_share` of them lie."""
    from sklearn.ensemble import IsolationForest

    columns = learned(train.features)
    forest = IsolationForest(
        n_estimators=recipe.isolation_trees, max_samples=recipe.isolation_rows, random_state=0, n_jobs=1
    ).fit(columns)
    return forest, float(np.quantile(-forest.score_samples(columns), 1.0 - recipe.unusual_share))


def train_detector(train: Transactions, *, recipe: Recipe = RECIPE, progress: Progress) -> Detector:
    """Fit everything on the training rows."""
    progress("scores for calibration", 0.2)
    slope, intercept = calibrate(*scores_ahead(train, recipe))
    progress("boosted trees", 0.4)
    boosters = grow_all(train, recipe)
    progress("isolation forest", 0.8)
    forest, unusual_above = isolate(train, recipe)
    isolation, norm = isolation_trees(forest, rows=recipe.isolation_rows)
    return Detector(
        classifier=[tree for booster in boosters for tree in boosted_trees(booster, share=1.0 / len(boosters))],
        slope=slope,
        intercept=intercept,
        review_cost=recipe.review_cost,
        missed_fee=recipe.missed_fee,
        isolation=isolation,
        isolation_norm=norm,
        unusual_above=unusual_above,
    )
