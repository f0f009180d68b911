"""forest.py: a graph answers as its trees do by their definition, on thresholds and beside them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onward.errors import PackageError
from onward.package.importers.forest import (
    Forest,
    Leaf,
    Link,
    Member,
    Node,
    Split,
    check_forest,
    float32_below,
    thresholds,
    write_forest,
)

pytest.importorskip("onnx", reason="needs the extra `pack`")


def walk(tree: list[Node], row: Any) -> dict[int, float]:
    node = tree[0]
    while not isinstance(node, Leaf):
        value = row[node.feature]
        if math.isnan(value):
            onward = node.missing_yes
        elif isinstance(node, Member):
            onward = value in node.members
        else:
            onward = {"BRANCH_LT": value < node.value, "BRANCH_LEQ": value <= node.value,
                      "BRANCH_GT": value > node.value}[node.rule]  # fmt: skip
        node = tree[node.yes if onward else node.no]
    return dict(node.weights)


def grown(random: np.random.Generator, depth: int, targets: int, nodes: list[Node]) -> int:
    """A tree of random nodes, written into `nodes`; the number of its root."""
    place = len(nodes)
    nodes.append(Leaf(()))
    if depth == 0 or random.random() < 0.1:
        nodes[place] = Leaf(((int(random.integers(targets)), float(np.float32(random.normal()))),))
        return place
    yes, no = grown(random, depth - 1, targets, nodes), grown(random, depth - 1, targets, nodes)
    missing = bool(random.random() < 0.5)
    if random.random() < 0.4:
        members = tuple(map(int, random.choice(70, int(random.integers(0, 12)), replace=False)))
        nodes[place] = Member(3, members, yes, no, missing)
    else:
        rule = ("BRANCH_LT", "BRANCH_LEQ", "BRANCH_GT")[int(random.integers(3))]
        value = float(np.float32(round(random.normal(), 1)))
        nodes[place] = Split(int(random.integers(3)), rule, value, yes, no, missing)
    return place


def forest_of(seed: int, **changed: Any) -> Forest:
    random = np.random.default_rng(seed)
    targets = changed.pop("targets", 1)
    trees: list[list[Node]] = []
    for _ in range(12):
        nodes: list[Node] = []
        grown(random, 5, targets, nodes)
        trees.append(nodes)
    return Forest(trees=trees, features=4, targets=targets, **changed)


def rows_of(seed: int) -> Any:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(400, 4)).round(1)  # many lie on a threshold
    rows[:, 3] = random.integers(0, 72, 400)
    rows[random.random(rows.shape) < 0.1] = np.nan
    return rows.astype(np.float32)


def answers(model: bytes, rows: Any) -> Any:
    return onnxruntime.InferenceSession(model).run(["prediction"], {"features": rows})[0]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_every_row_reaches_the_leaves_that_it_should(seed: int, targets: int, exact: bool) -> None:
    forest, rows = forest_of(seed, targets=targets, base=(0.5,), scale=2.0), rows_of(seed)
    check_forest(forest)
    expected = np.full((len(rows), targets), 0.5)
    for row, sums in zip(rows, expected, strict=True):
        for tree in forest.trees:
            for target, weight in walk(list(tree), row).items():
                sums[target] += 2.0 * weight
    found = answers(write_forest(forest, "prediction", exact=exact), rows)
    np.testing.assert_allclose(found, expected[:, 0] if targets == 1 else expected, atol=2e-5)


@pytest.mark.parametrize(
    ("link", "function"),
    [
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("exp", np.exp),
        ("softplus", lambda x: np.log1p(np.exp(x))),
        ("signed_square", lambda x: np.sign(x) * x * x),
        ("step", lambda x: (x > 0) * 1.0),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_links_are_their_functions(link: Link, function: Any, exact: bool) -> None:
    rows = rows_of(1)
    margin = answers(write_forest(forest_of(1), "prediction"), rows)
    found = answers(write_forest(forest_of(1, link=link), "prediction", exact=exact), rows)
    np.testing.assert_allclose(found, function(margin), rtol=1e-5, atol=1e-6)


def test_a_threshold_rounded_down_parts_single_precision_numbers_as_the_double_does() -> None:
    random = np.random.default_rng(0)
    for value in [*random.normal(size=200), 0.1, 0.5, 1e300, -1e300, 0.0]:
        below = float32_below(value)
        with np.errstate(over="ignore"):
            near = [np.float32(below), np.nextafter(np.float32(below), np.float32(np.inf))]
        assert [bool(x <= np.float32(below)) for x in near] == [bool(float(x) <= value) for x in near]


def test_a_threshold_beyond_single_precision_is_listed_as_infinite() -> None:
    trees: list[list[Node]] = [[Split(0, "BRANCH_LEQ", 1e300, 1, 2, False), Leaf(()), Leaf(())]]
    assert thresholds(Forest(trees=trees, features=1))[0].tolist() == [math.inf]


def test_thresholds_are_listed_by_column() -> None:
    tree: list[Node] = [Split(1, "BRANCH_LT", 0.5, 1, 2, True), Member(0, (3, 1), 3, 4, False)]
    forest = Forest(trees=[[*tree, Leaf(()), Leaf(()), Leaf(())]], features=2)
    assert {key: value.tolist() for key, value in thresholds(forest).items()} == {1: [0.5], 0: [1.0, 3.0]}


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ([Split(0, "BRANCH_LT", 0.0, 0, 1, False), Leaf(())], "reached twice"),
        ([Split(0, "BRANCH_LT", 0.0, 1, 1, False), Leaf(())], "reached twice"),
        ([Split(0, "BRANCH_LT", 0.0, 1, 7, False), Leaf(())], "no node 7"),
        ([Split(0, "BRANCH_LT", 0.0, -1, 1, False), Leaf(())], "no node -1"),
        ([Split(9, "BRANCH_LT", 0.0, 1, 2, False), Leaf(()), Leaf(())], "column 9"),
        ([Split(0, "BRANCH_LT", math.nan, 1, 2, False), Leaf(()), Leaf(())], "compares with nan"),
        ([Member(0, (10**400,), 1, 2, False), Leaf(()), Leaf(())], "a category that is none"),
        ([Leaf(((4, 1.0),))], "leaf 0 adds"),
        ([Leaf(((0, math.nan),))], "leaf 0 adds"),
        ([], "no node 0"),
    ],
)
def test_a_tree_that_leads_nowhere_or_back_is_refused(tree: list[Node], problem: str) -> None:
    with pytest.raises(PackageError, match=problem):
        check_forest(Forest(trees=[tree], features=2))


@pytest.mark.parametrize(
    "changed",
    [
        {"base": (math.nan,)},
        {"base": (0.0, -math.inf)},
        {"scale": math.nan},
        {"scale": math.inf},
        {"scale": 0.0},
        {"base": (1e308,), "scale": 1e-308},
        {"zeros_missing": (2,)},
        {"zeros_missing": (-1,)},
    ],
    ids=str,
)
def test_a_sum_that_is_no_number_is_refused(changed: dict[str, Any]) -> None:
    trees = [[Split(0, "BRANCH_LT", math.inf, 1, 2, False), Leaf(()), Leaf(())]]  # nothing is above that
    check_forest(Forest(trees=trees, features=2, base=(1.5,), scale=0.5, zeros_missing=(1,)))
    with pytest.raises(PackageError, match=r"no number|that is none"):
        check_forest(Forest(trees=trees, features=2, **changed))
