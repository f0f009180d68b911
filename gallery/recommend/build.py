"""Builds the recommend package: fetch the ratings, measure on the last of them, learn from all, write two graphs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gallery.recommend import quality, split
from gallery.recommend.packed import Packed, write_graphs
from gallery.recommend.ranking import RECIPE, genre_names, learn
from gallery.recommend.ratings import Film, load_ratings

HERE = Path(__file__).parent
COPIED = ("onward.toml", "card.md")
STAR_WARS, EMPIRE, MATRIX, TOY_STORY, ALIEN, AMELIE, GODFATHER = 260, 1196, 2571, 1, 1214, 4973, 858
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "space films": {"history": [STAR_WARS, EMPIRE, MATRIX], "stars": [5.0, 5.0, 4.5]},
    "films for children": {"history": [TOY_STORY, 588, 364, 2081]},
    "one film": {"history": [AMELIE], "stars": [5.0]},
    "one film disliked": {"history": [AMELIE], "stars": [1.0]},
    "nothing known": {},
    "genres only": {"genres": ["Comedy", "Animation"]},
    "history and genres": {"history": [GODFATHER, 1213], "genres": ["Documentary"]},
    "like Alien": {"like": ALIEN},
    "like Toy Story, with a history": {"like": TOY_STORY, "history": [3114, 78499]},
    "plain order": {"history": [ALIEN, 1200, 541], "stars": [5.0, 4.0, 5.0], "diversity": 0.0},
    "more of everything": {"history": [ALIEN, 1200, 541], "stars": [5.0, 4.0, 5.0], "diversity": 0.6},
    "a film that nobody knows": {"history": [9_999_999, GODFATHER]},
}

Progress = Callable[[str, float], None]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but onward.lock into `out`.

    progress: called with what is being done and the share of the work before it, 0 to 1.
    """
    out.mkdir(parents=True, exist_ok=True)
    progress("ratings", 0.0)
    ratings = load_ratings()
    progress("held-out quality, beside four other methods", 0.1)
    table = quality.summary(quality.compare(split.test(ratings)))
    metrics = {"methods": table, "recipe": asdict(RECIPE), "diversity": quality.DIVERSITY}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    progress("learning from all ratings", 0.9)
    write_graphs(learn(ratings), ratings.films, out)
    (out / "films.jsonl").write_text("".join(catalogue(ratings.films)), encoding="utf-8")
    progress("golden examples", 0.95)
    (out / "examples.jsonl").write_text("".join(examples(Packed(out, ratings.films))), encoding="utf-8")
    for name in COPIED:
        shutil.copyfile(HERE / name, out / name)
    progress("done", 1.0)


def catalogue(films: Sequence[Film]) -> Iterator[str]:
    """A line for each film, by MovieLens' number, and one for each genre: -1 is the first by name."""
    for film in films:
        record: dict[str, Any] = {"title": film.name, "genres": list(film.genres), "id": film.movie}
        yield json.dumps(record, ensure_ascii=False) + "\n"
    for place, genre in enumerate(genre_names(films)):
        yield json.dumps({"title": genre, "id": -1 - place}) + "\n"


def examples(packed: Packed) -> Iterator[str]:
    """Golden examples: what the graphs answer."""
    for name, asked in EXAMPLES.items():
        found = packed(**{"diversity": quality.DIVERSITY, **asked})
        # Which of two films of nearly the same score comes first may differ between processors: scores are compared.
        line = {
            "name": name, "input": dict(asked), "tolerance": 1e-4,
            "tensors": {"scores": [[round(float(score), 7) for score in found["scores"]]]},
        }  # fmt: skip
        if name in ("space films", "like Alien"):
            line["tensors"] |= {key: [found[key].tolist()] for key in ("ids", "reason", "because")}
        yield json.dumps(line) + "\n"
