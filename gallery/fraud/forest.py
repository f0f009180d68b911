"""Trees that LightGBM and scikit-learn grew, as `graphs.Tree`s."""

from __future__ import annotations

from typing import Any

import numpy as np

from gallery.fraud.graphs import LEAF, Floats, Tree


def boosted_trees(booster: Any, *, share: float = 1.0) -> list[Tree]:
    """Trees of a LightGBM booster, every leaf times `share` (so that boosters can be averaged by adding them)."""
    return [_from_lightgbm(tree["tree_structure"], share) for tree in booster.dump_model()["tree_info"]]


def isolation_trees(forest: Any, *, rows: int) -> tuple[list[Tree], float]:
    """Trees of a scikit-learn IsolationForest whose leaf values add up to the mean path length.

    Returns them with the path length that means a score of one half, c(`rows`), `rows` being how many a tree saw.
    """
    share = 1.0 / len(forest.estimators_)
    trees = [_from_sklearn(estimator.tree_, share) for estimator in forest.estimators_]
    return trees, float(mean_path_length(np.array([rows]))[0])


def mean_path_length(rows: Floats) -> Floats:
    """c(n): mean depth of an unsuccessful search in a binary tree of n rows, what an unsplit leaf still hides."""
    rows = np.asarray(rows, np.float64)
    several = np.maximum(rows, 3.0)
    harmonic = 2.0 * (np.log(several - 1.0) + np.euler_gamma) - 2.0 * (several - 1.0) / several
    return np.where(rows <= 1.0, 0.0, np.where(rows == 2.0, 1.0, harmonic))


def _from_lightgbm(root: dict[str, Any], share: float) -> Tree:
    nodes: list[dict[str, Any]] = [root]
    children: list[tuple[int, int]] = []
    for node in nodes:  # grows while it is walked: breadth first
        if "split_feature" not in node:
            children.append((0, 0))
            continue
        if node["decision_type"] != "<=":
            raise ValueError(f"only numeric splits are written, not {node['decision_type']!r}")
        children.append((len(nodes), len(nodes) + 1))
        nodes += [node["left_child"], node["right_child"]]
    inner = np.array(["split_feature" in node for node in nodes])
    return Tree(
        feature=np.array([node.get("split_feature", LEAF) for node in nodes], np.int64),
        threshold=np.array([node.get("threshold", 0.0) for node in nodes]),
        left=np.array([left for left, _ in children], np.int64),
        right=np.array([right for _, right in children], np.int64),
        value=np.where(inner, 0.0, [node.get("leaf_value", 0.0) * share for node in nodes]),
        # a booster that cannot split leaves one leaf, which has no count
        cover=np.array([float(node.get("internal_count", node.get("leaf_count", 1))) for node in nodes]),
    )


def _from_sklearn(tree: Any, share: float) -> Tree:
    inner = tree.children_left >= 0
    depth = np.zeros(tree.node_count)
    for node in np.flatnonzero(inner):  # parents come before their children
        depth[[tree.children_left[node], tree.children_right[node]]] = depth[node] + 1.0
    length = depth + mean_path_length(tree.n_node_samples)
    return Tree(
        feature=np.where(inner, tree.feature, LEAF).astype(np.int64),
        threshold=np.where(inner, tree.threshold, 0.0),
        left=np.where(inner, tree.children_left, 0).astype(np.int64),
        right=np.where(inner, tree.children_right, 0).astype(np.int64),
        value=np.where(inner, 0.0, length * share),
        cover=tree.n_node_samples.astype(np.float64),
    )
