"""How good the ranking is beside popularity, ItemKNN, EASE and implicit ALS: the table of card.md.

python -m gallery.recommend.quality                   the test window, everything chosen (a minute)
python -m gallery.recommend.quality --choose [NAME]   the validation window: what was tried, best first (minutes)
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gallery.recommend import baselines, metrics, split
from gallery.recommend.packed import Packed, write_graphs
from gallery.recommend.ranking import RECIPE, learn, rank_case
from gallery.recommend.ratings import Ints, Ratings, load_ratings
from gallery.recommend.split import Case, Window

SHIPPED = "shipped"
DIVERSITY = 0.3
"""What the manifest sets where a caller says nothing."""

Fit = Callable[..., baselines.Ranker]


def shipped(known: Ratings, **changed: Any) -> baselines.Ranker:
    """The shipped ranking in NumPy, as the others are."""
    learned = learn(known, replace(RECIPE, **changed))
    return lambda case: rank_case(learned, case)


FITS: Mapping[str, Fit] = {
    "popularity": baselines.popularity, "ItemKNN": baselines.item_knn, "EASE": baselines.ease,
    "implicit ALS": baselines.implicit_als, SHIPPED: shipped,
}  # fmt: skip
TRIED: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "popularity": {"positive_stars": (0.5, 3.5, 4.0, 4.5), "half_life_days": (90, 180, 365, 730, 1e6)},
    "ItemKNN": {
        "positive_stars": (0.5, 3.5, 4.0), "neighbours": (50, 200, 10_000), "shrink": (1, 20, 50, 200),
        "idf": (False, True),
    },
    "EASE": {"positive_stars": (0.5, 3.5, 4.0), "ridge": (50, 100, 200, 300, 500, 1000, 2000)},
    "implicit ALS": {
        "positive_stars": (0.5, 3.5, 4.0), "factors": (16, 32, 64, 96, 128), "ridge": (3, 10, 30),
        "alpha": (0.03, 0.1, 0.3, 1, 3),
        "rounds": (10,),
    },
    SHIPPED: {
        "positive_stars": (3.5, 4.0), "person_half_life_years": (1.0, 2.0, 4.0), "ridge": (1000.0, 2000.0, 4000.0),
        "rank": (64, 96, 1000), "popular": (0.03, 0.05, 0.07, 0.1), "popular_half_life_days": (180.0, 365.0),
    },
}  # fmt: skip
CHOSEN: Mapping[str, Mapping[str, Any]] = {
    "popularity": {"positive_stars": 4.0, "half_life_days": 180},
    "ItemKNN": {"positive_stars": 3.5, "neighbours": 10_000, "shrink": 50, "idf": False},
    "EASE": {"positive_stars": 4.0, "ridge": 200},
    "implicit ALS": {"positive_stars": 4.0, "factors": 96, "ridge": 10, "alpha": 0.1, "rounds": 10},
    SHIPPED: {},
}


def measured(cases: Sequence[Case], best: Callable[[Case], Ints]) -> dict[str, list[float]]:
    """Recall and NDCG for each person."""
    found = [(best(case), case.liked) for case in cases]
    return {
        "recall": [metrics.recall(films, liked) for films, liked in found],
        "ndcg": [metrics.ndcg(films, liked) for films, liked in found],
    }


def compare(window: Window) -> dict[str, dict[str, list[float]]]:
    """Every chosen method on a window, the shipped one as its graphs answer, with and without diversity."""
    found = {}
    for name, fit in FITS.items():
        if name != SHIPPED:
            ranker = fit(window.known, **CHOSEN[name])
            found[name] = measured(window.cases, _ranking(ranker))
    films = window.known.films
    with tempfile.TemporaryDirectory(prefix="onward-recommend-") as folder:
        write_graphs(learn(window.known), films, Path(folder))
        packed = Packed(Path(folder), films)
        for name, diversity in ((f"{SHIPPED}, diversity 0", 0.0), (SHIPPED, DIVERSITY)):
            found[name] = measured(window.cases, lambda case, d=diversity: packed.best(case, diversity=d))
    return found


def summary(found: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Means with 90 % bootstrap intervals, and how far the shipped ranking is above each other, person by person."""
    table: dict[str, Any] = {}
    for name, each in found.items():
        table[name] = {}
        for measure, values in each.items():
            ahead = np.subtract(found[SHIPPED][measure], values)
            table[name][measure] = {
                "mean": float(np.mean(values)), "interval_90": metrics.interval(values),
                "shipped_ahead": float(ahead.mean()), "shipped_ahead_90": metrics.interval(ahead.tolist()),
            }  # fmt: skip
    return table


def markdown(table: Mapping[str, Any]) -> Iterator[str]:
    """The table of card.md, line by line."""
    yield "| method | Recall@20 (90 %) | NDCG@20 (90 %) | shipped is ahead in recall by | in NDCG by |"
    yield "|---|---|---|---|---|"
    for name, measures in table.items():
        cells = [name]
        for measure in ("recall", "ndcg"):
            low, high = measures[measure]["interval_90"]
            cells.append(f"{measures[measure]['mean']:.3f} ({low:.3f} to {high:.3f})")
        for measure in ("recall", "ndcg"):
            low, high = measures[measure]["shipped_ahead_90"]
            same = name == SHIPPED
            cells.append("" if same else f"{measures[measure]['shipped_ahead']:+.3f} ({low:+.3f} to {high:+.3f})")
        yield f"| {' | '.join(cells)} |"


def choose(name: str, window: Window) -> Iterator[tuple[float, float, dict[str, Any]]]:
    """Recall, NDCG and settings of everything tried for one method, best sum first."""
    tried = []
    for values in itertools.product(*TRIED[name].values()):
        settings = dict(zip(TRIED[name], values, strict=True))
        each = measured(window.cases, _ranking(FITS[name](window.known, **settings)))
        tried.append((float(np.mean(each["recall"])), float(np.mean(each["ndcg"])), settings))
    yield from sorted(tried, key=lambda one: -(one[0] + one[1]))


def _ranking(ranker: baselines.Ranker) -> Callable[[Case], Ints]:
    return lambda case: metrics.ranked(ranker(case), case.items)


def main() -> None:
    """Print the table, or what was tried."""
    parser = argparse.ArgumentParser(prog="python -m gallery.recommend.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--choose", nargs="?", const="all", choices=("all", *FITS), help="on the validation window")
    parser.add_argument("--json", action="store_true", help="the numbers as JSON")
    options = parser.parse_args()
    ratings = load_ratings()
    if options.choose:
        window = split.validation(ratings)
        for name in FITS if options.choose == "all" else (options.choose,):
            print(name)
            for recall, ndcg, settings in itertools.islice(choose(name, window), 5):
                print(f"  {recall:.4f} {ndcg:.4f}  {settings}", flush=True)
        return
    table = summary(compare(split.test(ratings)))
    if options.json:
        print(json.dumps({"methods": table, "recipe": asdict(RECIPE)}, indent=2))
    else:
        print("\n".join(markdown(table)))


if __name__ == "__main__":
    main()
