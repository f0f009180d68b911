"""The split in time: what a model may learn from, and the people it is then asked about.

    ── trained on ──┬── validation window ──┬── test window ──
    first 60 %      │ next 20 %             │ last 20 % of the ratings

A model never sees a rating from after the start of the window it is measured on. Everybody who rates in a window is
taken as the service would meet them: what they rated up to the middle of their own time in it (and before it) is
their history, what they go on to like is what ought to be recommended. Nearly all of them are new: only 23 people have
five ratings before the last cut and any after it, so measuring those alone would say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gallery.recommend.ratings import Floats, Ints, Ratings

VALIDATION_FROM = 0.6
TEST_FROM = 0.8
LIKED_STARS = 4.0
HISTORY_AT_LEAST = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """One person of a window.

    items, stars: the history in order of time, [n]; ages_s: how long before `now_s` each was, [n].
    liked: the films that they rated `LIKED_STARS` or more after `now_s`, [m]. None of them is in the history.
    """

    user: int
    items: Ints
    stars: Floats
    ages_s: Floats
    liked: Ints
    now_s: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """What is known before a window starts, and the people in it."""

    known: Ratings
    cases: Sequence[Case]
    starts_s: int


def validation(ratings: Ratings) -> Window:
    """The window in which everything is chosen."""
    return window(ratings, VALIDATION_FROM, TEST_FROM)


def test(ratings: Ratings) -> Window:
    """The window that is looked at once, with everything chosen."""
    return window(ratings, TEST_FROM, 1.0)


def window(ratings: Ratings, start: float, stop: float) -> Window:
    """The window from one share of the ratings to another, by time: ratings of one second never stand on both sides."""
    starts_s = int(ratings.at_s[int(len(ratings) * start)])
    stops_s = int(ratings.at_s[int(len(ratings) * stop)]) if stop < 1.0 else int(ratings.at_s[-1]) + 1
    seen, inside = ratings.between(0, stops_s), ratings.between(starts_s, stops_s)
    cases = []
    for user in np.unique(inside.user):
        own = inside.where(inside.user == user)
        # Ratings of the same second were given on one page: which came first is not known, so they stay together.
        now_s = int(own.at_s[len(own) // 2])
        history = seen.where((seen.user == user) & (seen.at_s < now_s))
        after = own.where((own.at_s >= now_s) & (own.stars >= LIKED_STARS))
        if len(history) >= HISTORY_AT_LEAST and len(after):
            cases.append(
                Case(
                    user=int(user),
                    items=history.item,
                    stars=history.stars,
                    ages_s=(now_s - history.at_s).astype(np.float64),
                    liked=after.item,
                    now_s=now_s,
                )
            )
    return Window(known=ratings.between(0, starts_s), cases=tuple(cases), starts_s=starts_s)
