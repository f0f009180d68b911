"""The ranking that is packed: what is learned of ratings, as arrays, and what it says of a person.

Knows nothing of ONNX. The graph computes the same in FP32 (`graphs.py`); a test holds one against the other.

    score(film) = Σ over the history: weight · ⟨vector(watched), vector(film)⟩ / own(film)    what they watched
                + popular · popularity(film)                                                what is liked now
                + genre · cosine(genres preferred, genres of the film)                      what they say they like

    likeness(a, b) = ⟨vector(a), vector(b)⟩ / |vector(a)| / (|vector(b)| + shrink)              similar films

The first line is EASE with three changes, each of which was better on the validation window: a person counts half for
every year since they were last seen, each genre is a further person who likes all its films, and the vectors keep only
their first `rank` of about 700 dimensions. Without the last it is exact: EASE's matrix is (1 - P / diagonal of P) with
P = (1 - Xᵀ (XXᵀ + ridge)⁻¹ X) / ridge, and with XXᵀ = U e Uᵀ the vectors are the columns of (e + ridge)^-½ Uᵀ X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gallery.recommend.ratings import Film, Floats, Ints, Ratings
from gallery.recommend.split import Case

YEAR_S = 365 * 86_400.0
HISTORY = 100
"""How many of the latest films count; all of the history is left out of the answer."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is chosen rather than learned, on the validation window (card.md).

    positive_stars: from which rating on a film was liked. person_half_life_years: see above. ridge: EASE's.
    genre_weight: how much a genre counts as a person. popular_half_life_days, popular: of popularity and its share.
    genre: the share of the genre preference, as much as popularity. history_half: after how many later films one in
        the history counts half. shrink: of the likeness, in units of a vector's length (0.05 is usual).
    """

    positive_stars: float = 3.5
    person_half_life_years: float = 1.0
    ridge: float = 2000.0
    genre_weight: float = 4.0
    rank: int = 96
    popular_half_life_days: float = 180.0
    popular: float = 0.07
    genre: float = 0.07
    history_half: float = 40.0
    shrink: float = 0.03


RECIPE = Recipe()


@dataclass(frozen=True, kw_only=True)
class Learned:
    """vectors [films, rank], own [films] (above 0), popular [films], genres [films, genres] rows of length 1 or 0."""

    vectors: Floats
    own: Floats
    popular: Floats
    genres: Floats
    recipe: Recipe


def genre_names(films: Sequence[Film]) -> tuple[str, ...]:
    """Every genre, by name."""
    return tuple(sorted({genre for film in films for genre in film.genres}))


def learn(known: Ratings, recipe: Recipe = RECIPE) -> Learned:
    """Learn from ratings; the same ratings give the same arrays."""
    names = genre_names(known.films)
    of_genre = np.array([[name in film.genres for name in names] for film in known.films], np.float64)
    x = np.vstack([_people(known, recipe), recipe.genre_weight * of_genre.T])
    values, axes = np.linalg.eigh(x @ x.T)
    values, axes = values[::-1], axes[:, ::-1]
    vectors = x.T @ (axes / np.sqrt(np.maximum(values, 0.0) + recipe.ridge))  # (films, people + genres)
    own = 1.0 - np.einsum("fr,fr->f", vectors, vectors)
    vectors = vectors[:, : recipe.rank]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])  # an axis has no sign of its own
    counts = popularity_counts(known, recipe)
    length = np.linalg.norm(of_genre, axis=1, keepdims=True)
    return Learned(
        vectors=vectors,
        own=own,
        popular=np.log1p(counts) / np.log1p(counts.max()),
        genres=of_genre / np.maximum(length, 1.0),
        recipe=recipe,
    )


def popularity_counts(known: Ratings, recipe: Recipe) -> Floats:
    """How often each film was liked lately, [films]."""
    kept = known.where(known.stars >= 4.0)
    age_days = (known.at_s.max() - kept.at_s) / 86_400.0
    return np.bincount(kept.item, np.exp2(-age_days / recipe.popular_half_life_days), minlength=len(known.films))


def history_weights(stars: Floats, recipe: Recipe) -> Floats:
    """What each film of a history counts, newest first, [n]: 4 stars fully, 3 and fewer not, later ones more."""
    weights: Floats = np.clip(stars - 3.0, 0.0, 1.0) * np.exp2(-np.arange(len(stars)) / recipe.history_half)
    return weights


def scores(learned: Learned, items: Ints, stars: Floats, *, preferred: Floats | None = None) -> Floats:
    """One score a film, [films], of a history newest first and preferred genres, [genres] of 0 and 1."""
    recipe = learned.recipe
    latest = items[:HISTORY]
    person = history_weights(stars[:HISTORY], recipe) @ learned.vectors[latest]
    found: Floats = learned.vectors @ person / learned.own + recipe.popular * learned.popular
    if preferred is not None and preferred.any():
        found = found + recipe.genre * (learned.genres @ (preferred / np.linalg.norm(preferred)))
    return found


def likeness(learned: Learned, item: int) -> Floats:
    """How alike each film is to one, [films]; what hardly anybody knows is like nothing, for the shrinkage."""
    lengths = np.linalg.norm(learned.vectors, axis=1)
    found: Floats = (
        learned.vectors @ learned.vectors[item] / max(lengths[item], 1e-9) / (lengths + learned.recipe.shrink)
    )
    return found


def rank_case(learned: Learned, case: Case) -> Floats:
    """The scores for a person of a window, whose history is in order of time."""
    return scores(learned, case.items[::-1], case.stars[::-1])


def _people(known: Ratings, recipe: Recipe) -> Floats:
    """People x films, the root of the person's weight where they liked the film. The weights' mean is 1."""
    kept = known.where(known.stars >= recipe.positive_stars)
    _, rows = np.unique(kept.user, return_inverse=True)
    last_seen = np.zeros(int(rows.max()) + 1)
    np.maximum.at(last_seen, rows, kept.at_s.astype(np.float64))
    weights = np.exp2(-(known.at_s.max() - last_seen) / YEAR_S / recipe.person_half_life_years)
    x = np.zeros((len(weights), len(known.films)))
    x[rows, kept.item] = np.sqrt(weights / weights.mean())[rows]
    return x
