"""What the shipped ranking is held against: popularity, ItemKNN, EASE and implicit ALS, in NumPy.

Each is fitted on `known` ratings and gives one score a film for a person's history. Nothing here is packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from scipy import sparse

from gallery.recommend.ratings import Floats, Ratings
from gallery.recommend.split import Case

Ranker: TypeAlias = Callable[[Case], Floats]
_DAY_S = 86_400.0


def matrix(known: Ratings, *, positive_stars: float) -> sparse.csr_matrix:
    """People x films, 1 where somebody gave at least `positive_stars`; people without a row are left out."""
    kept = known.where(known.stars >= positive_stars)
    _, rows = np.unique(kept.user, return_inverse=True)
    shape = (int(rows.max()) + 1, len(known.films))
    return sparse.csr_matrix((np.ones(len(kept)), (rows, kept.item)), shape)


def taste(case: Case, films: int, *, positive_stars: float) -> Floats:
    """A person's own row of that matrix, [films]. Who liked nothing that much is taken by all they rated."""
    row = np.zeros(films)
    kept = case.items[case.stars >= positive_stars]
    row[kept if len(kept) else case.items] = 1.0
    return row


def popularity(known: Ratings, *, positive_stars: float, half_life_days: float) -> Ranker:
    """How often each film was liked, an event counting half for every half-life that it is old."""
    kept = known.where(known.stars >= positive_stars)
    age_days = (known.at_s.max() - kept.at_s) / _DAY_S
    counts = np.bincount(kept.item, np.exp2(-age_days / half_life_days), minlength=len(known.films))
    return lambda case: counts


def item_knn(known: Ratings, *, positive_stars: float, neighbours: int, shrink: float, idf: bool) -> Ranker:
    """The cosine between films over the people who liked them, shrunk, of each film's nearest neighbours only.

    idf: whether a person who likes much counts for less.
    """
    x = matrix(known, positive_stars=positive_stars)
    if idf:
        per_person = np.asarray(x.sum(axis=1)).ravel()
        x = sparse.diags(np.log1p(x.shape[1] / np.maximum(per_person, 1.0))) @ x
    counted = np.flatnonzero(np.asarray(x.sum(axis=0)).ravel())  # what nobody liked is like nothing
    dot = (x.T @ x)[counted][:, counted].toarray().astype(np.float32)
    norm = np.sqrt(np.diag(dot))
    similarity = dot / (np.outer(norm, norm) + np.float32(shrink))
    np.fill_diagonal(similarity, 0.0)
    if neighbours < len(similarity):
        floor = np.partition(similarity, -neighbours, axis=1)[:, -neighbours]
        similarity[similarity < floor[:, None]] = 0.0

    def rank(case: Case) -> Floats:
        scores = np.zeros(x.shape[1])
        scores[counted] = similarity @ taste(case, x.shape[1], positive_stars=positive_stars)[counted]
        return scores

    return rank


def ease(known: Ratings, *, positive_stars: float, ridge: float) -> Ranker:
    """EASE: the linear map of a row onto itself without a diagonal, in closed form.

    EASE inverts XᵀX + ridge, films x films. There are fewer people than films, so the inverse follows from the one
    people x people: P = (1 - Xᵀ (XXᵀ + ridge)⁻¹ X) / ridge. It is the same model to rounding (a test compares them).
    """
    x = matrix(known, positive_stars=positive_stars).toarray()
    inner = np.linalg.inv(x @ x.T + ridge * np.eye(len(x)))
    folded = inner @ x  # (people, films)
    diagonal = (1.0 - np.einsum("uf,uf->f", x, folded)) / ridge

    def rank(case: Case) -> Floats:
        row = taste(case, x.shape[1], positive_stars=positive_stars)
        scores: Floats = row - (row - (x @ row) @ folded) / ridge / diagonal
        return scores

    return rank


def implicit_als(
    known: Ratings, *, positive_stars: float, factors: int, ridge: float, alpha: float, rounds: int, seed: int = 0
) -> Ranker:
    """Weighted matrix factorisation of implicit feedback (Hu, Koren, Volinsky); the person is folded in.

    A liked film has the preference 1 with confidence 1 + alpha, every other the preference 0 with confidence 1.
    """
    x = matrix(known, positive_stars=positive_stars)
    random = np.random.default_rng(seed)
    films = random.normal(0.0, 0.01, (x.shape[1], factors))
    by_film = sparse.csr_matrix(x.T)
    for _ in range(rounds):
        people = best_factors(x, films, ridge=ridge, alpha=alpha)
        films = best_factors(by_film, people, ridge=ridge, alpha=alpha)

    def rank(case: Case) -> Floats:
        row = sparse.csr_matrix(taste(case, len(films), positive_stars=positive_stars))
        scores: Floats = films @ best_factors(row, films, ridge=ridge, alpha=alpha)[0]
        return scores

    return rank


def best_factors(x: sparse.csr_matrix, other: Floats, *, ridge: float, alpha: float) -> Floats:
    """One half of a round: the best factors of each row of `x`, given those of its columns."""
    gram = other.T @ other + ridge * np.eye(other.shape[1])
    found = np.zeros((x.shape[0], other.shape[1]))
    for row in range(x.shape[0]):
        seen = other[x.indices[x.indptr[row] : x.indptr[row + 1]]]
        if len(seen):
            found[row] = np.linalg.solve(gram + alpha * seen.T @ seen, (1.0 + alpha) * seen.sum(axis=0))
    return found
