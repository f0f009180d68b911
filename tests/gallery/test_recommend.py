"""Properties of the built recommend package, of what it is measured with and of what it is made from."""

from __future__ import annotations

import json
import lzma
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the gallery builds need the extra `pack`")
pytest.importorskip("scipy", reason="the baselines need scipy")

from gallery.recommend import baselines, metrics, split
from gallery.recommend.build import EXAMPLES, build
from gallery.recommend.graphs import GENRE, LIKE, NOT_WANTED, POPULAR, WATCHED
from gallery.recommend.packed import Packed, write_graphs
from gallery.recommend.quality import DIVERSITY, SHIPPED, TRIED
from gallery.recommend.ranking import (
    HISTORY,
    RECIPE,
    Learned,
    genre_names,
    learn,
    likeness,
    popularity_counts,
    scores,
)  # fmt: skip
from gallery.recommend.ratings import Film, Ratings, RefusedTable, load_ratings, read_table
from gallery.recommend.split import Case
from onward.package.assembly import assemble
from onward.pipeline import Pipeline

pytestmark = pytest.mark.weights
BUILT = Path(__file__).parents[2] / "var" / "repository" / "recommend" / "1.0.0"
STAR_WARS, EMPIRE, MATRIX, TOY_STORY, ALIEN, GODFATHER = 260, 1196, 2571, 1, 1214, 858


@pytest.fixture(scope="module")
def ratings() -> Ratings:
    return load_ratings()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (BUILT / "model.onnx").is_file():
        return BUILT
    out = tmp_path_factory.mktemp("recommend")
    build(out, progress=lambda what, share: None)
    assemble(out)
    return out


@pytest.fixture(scope="module")
def pipeline(package: Path) -> Pipeline:
    return Pipeline.open(package)


@pytest.fixture(scope="module")
def learned(ratings: Ratings) -> Learned:
    return learn(ratings)


@pytest.fixture(scope="module")
def packed(ratings: Ratings, learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("graphs")
    write_graphs(learned, ratings.films, folder)
    return Packed(folder, ratings.films)


@pytest.fixture(scope="module")
def stated(package: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((package / "metrics.json").read_text())
    return found["methods"]


# What it was measured to be


def test_the_shipped_ranking_is_at_least_as_good_as_each_baseline_on_both_measures(stated: dict[str, Any]) -> None:
    assert set(stated) == {*TRIED, f"{SHIPPED}, diversity 0"}
    for measure in ("recall", "ndcg"):
        best = max(values[measure]["mean"] for name, values in stated.items() if not name.startswith(SHIPPED))
        assert stated[SHIPPED][measure]["mean"] >= best


def test_the_stated_quality_is_that_of_graphs_learned_before_the_test_window(
    ratings: Ratings, stated: dict[str, Any], tmp_path: Path
) -> None:
    window = split.test(ratings)
    write_graphs(learn(window.known), ratings.films, tmp_path)
    answers = Packed(tmp_path, ratings.films)
    found = [metrics.ndcg(answers.best(case, diversity=DIVERSITY), case.liked) for case in window.cases]
    assert np.mean(found) == pytest.approx(stated[SHIPPED]["ndcg"]["mean"], abs=2e-3)
    low, high = stated[SHIPPED]["ndcg"]["interval_90"]
    assert low < np.mean(found) < high


# The split


def test_nothing_that_is_learned_from_is_later_than_the_window(ratings: Ratings) -> None:
    for window in (split.validation(ratings), split.test(ratings)):
        assert window.known.at_s.max() < window.starts_s
        for case in window.cases:
            assert case.now_s >= window.starts_s
            assert case.ages_s.min() > 0


def test_no_film_is_both_history_and_answer(ratings: Ratings) -> None:
    for case in split.test(ratings).cases:
        assert len(case.items) >= split.HISTORY_AT_LEAST
        assert not np.isin(case.liked, case.items).any()


def test_people_of_the_test_window_take_no_part_in_choosing(ratings: Ratings) -> None:
    chosen_on, tested_on = split.validation(ratings), split.test(ratings)
    assert max(case.now_s for case in chosen_on.cases) < tested_on.starts_s
    assert len(chosen_on.cases) == 161
    assert len(tested_on.cases) == 145


# The measures and the baselines


def test_recall_and_ndcg_are_those_worked_out_by_hand() -> None:
    best, liked = np.arange(20), np.array([0, 2, 50])
    assert metrics.recall(best, liked) == pytest.approx(2 / 3)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert metrics.ndcg(best, liked) == pytest.approx((1 + 1 / np.log2(4)) / ideal)
    assert metrics.recall(best, np.arange(40)) == metrics.ndcg(best, np.arange(40)) == 1.0


def test_ranked_leaves_out_what_was_seen() -> None:
    found = metrics.ranked(np.arange(30.0), np.array([29, 28]), length=3)
    assert found.tolist() == [27, 26, 25]


def small_ratings(people: int = 12, films: int = 9, seed: int = 5) -> Ratings:
    """Random ratings of a few people, in order of time."""
    random = np.random.default_rng(seed)
    user, item = np.nonzero(random.random((people, films)) < 0.5)
    order = random.permutation(len(user))
    return Ratings(
        user=user[order], item=item[order], stars=random.choice([2.0, 3.5, 4.0, 5.0], len(user)),
        at_s=np.sort(random.integers(1, 10**8, len(user))),
        films=tuple(
            Film(movie=10 + 3 * n, title=f"film {n}", year=2000, genres=(("Drama",), ("Comedy", "War"))[n % 2])
            for n in range(films)
        ),
    )  # fmt: skip


def a_case(items: Sequence[int], stars: Sequence[float]) -> Case:
    ages_s = np.arange(len(items), 0, -1.0)
    return Case(
        user=0, items=np.array(items), stars=np.array(stars), ages_s=ages_s, liked=np.array([], np.int64), now_s=0
    )


def test_ease_by_people_is_ease_by_films() -> None:
    known, ridge = small_ratings(), 3.0
    x = baselines.matrix(known, positive_stars=3.5).toarray()
    inverse = np.linalg.inv(x.T @ x + ridge * np.eye(x.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    case = a_case([0, 3, 4], [5.0, 5.0, 4.0])
    wanted = baselines.taste(case, x.shape[1], positive_stars=3.5) @ weights
    found = baselines.ease(known, positive_stars=3.5, ridge=ridge)(case)
    assert np.delete(found, case.items) == pytest.approx(np.delete(wanted, case.items))


def test_each_half_round_of_als_solves_its_weighted_least_squares() -> None:
    """Against numpy's solver on the rows written out: root of the confidence, and the ridge as further rows."""
    x, ridge, alpha = baselines.matrix(small_ratings(), positive_stars=3.5), 0.5, 2.0
    other = np.random.default_rng(1).normal(size=(x.shape[1], 3))
    found = baselines.best_factors(x, other, ridge=ridge, alpha=alpha)
    for row, factors in zip(x.toarray(), found, strict=True):
        weight = np.sqrt(1 + alpha * row)
        system = np.vstack([weight[:, None] * other, np.sqrt(ridge) * np.eye(3)])
        wanted = np.linalg.lstsq(system, np.append(weight * row, np.zeros(3)))[0]
        assert factors == pytest.approx(wanted)


def test_the_vectors_with_every_dimension_are_ease_exactly() -> None:
    known = small_ratings()
    recipe = replace(
        RECIPE, person_half_life_years=1e9, ridge=3.0, genre_weight=0.0, rank=1000, popular=0.0, history_half=1e9
    )
    case = a_case([0, 3, 4], [5.0, 5.0, 4.0])
    found = scores(learn(known, recipe), case.items[::-1], case.stars[::-1])
    wanted = baselines.ease(known, positive_stars=3.5, ridge=3.0)(case)
    assert np.delete(found, case.items) == pytest.approx(np.delete(wanted, case.items), abs=1e-7)


# The graphs


def numbers(ratings: Ratings, places: Sequence[int]) -> list[int]:
    return [ratings.films[place].movie for place in places]


def random_history(ratings: Ratings, length: int, seed: int) -> tuple[list[int], list[float]]:
    random = np.random.default_rng(seed)
    places = random.choice(len(ratings.films), length, replace=False).tolist()
    return places, random.choice(np.arange(0.5, 5.5, 0.5), length).tolist()


@pytest.mark.parametrize("length", [0, 1, 7, HISTORY, HISTORY + 1, 700])
def test_the_graphs_rank_as_numpy_does_whatever_the_history_s_length(
    ratings: Ratings, learned: Learned, packed: Packed, length: int
) -> None:
    places, stars = random_history(ratings, length, seed=length)
    found = packed(numbers(ratings, places), stars, ["Comedy"])
    preferred = np.array([name == "Comedy" for name in genre_names(ratings.films)], np.float64)
    wanted = scores(learned, np.array(places, np.int64), np.array(stars), preferred=preferred)
    wanted[places] = NOT_WANTED
    assert found["scores"] == pytest.approx(np.sort(wanted)[::-1][:20], abs=2e-6)
    by_number = {film.movie: place for place, film in enumerate(ratings.films)}
    assert [wanted[by_number[int(number)]] for number in found["ids"]] == pytest.approx(found["scores"], abs=2e-6)


@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
def test_nothing_watched_is_recommended_and_nothing_twice(ratings: Ratings, packed: Packed, diversity: float) -> None:
    popular = np.argsort(-popularity_counts(ratings, RECIPE))[:500]
    seen = numbers(ratings, popular.tolist())
    ids = packed(seen, [5.0] * len(seen), diversity=diversity)["ids"].tolist()
    assert len(set(ids)) == 20
    assert not set(ids) & set(seen)


def test_a_film_watched_leaves_the_next_answer(packed: Packed) -> None:
    first = packed([STAR_WARS, MATRIX])["ids"].tolist()
    second = packed([first[0], STAR_WARS, MATRIX])["ids"].tolist()
    assert first[0] not in second
    assert second != first[1:]


def test_films_like_one_are_those_of_the_largest_likeness(ratings: Ratings, learned: Learned, packed: Packed) -> None:
    place = [film.movie for film in ratings.films].index(ALIEN)
    found = packed([EMPIRE], like=ALIEN, diversity=0.3)
    wanted = likeness(learned, place)
    wanted[[place, [film.movie for film in ratings.films].index(EMPIRE)]] = NOT_WANTED
    assert found["scores"] == pytest.approx(np.sort(wanted)[::-1][:20], abs=2e-6)
    assert set(found["reason"].tolist()) == {LIKE}
    assert set(found["because"].tolist()) == {ALIEN}
    titles = {film.movie: film.title for film in ratings.films}
    assert titles[int(found["ids"][0])] == "Aliens"


def test_a_reason_names_the_film_of_the_history_that_adds_most(
    ratings: Ratings, learned: Learned, packed: Packed
) -> None:
    by_number = {film.movie: place for place, film in enumerate(ratings.films)}
    history = [STAR_WARS, GODFATHER, TOY_STORY, MATRIX]
    found = packed(history, [5.0] * 4)
    watched = [place for place, reason in enumerate(found["reason"]) if reason == WATCHED]
    assert watched
    fading = np.exp2(-np.arange(4) / RECIPE.history_half)
    for place in watched:
        film = by_number[int(found["ids"][place])]
        parts = [
            fading[n] * learned.vectors[by_number[number]] @ learned.vectors[film] for n, number in enumerate(history)
        ]
        assert found["because"][place] == history[int(np.argmax(parts))]


def test_who_is_unknown_gets_what_is_popular_and_says_so(ratings: Ratings, packed: Packed) -> None:
    found = packed()
    popular = np.argsort(-popularity_counts(ratings, RECIPE), kind="stable")[:20]
    assert found["ids"].tolist() == numbers(ratings, popular.tolist())
    assert set(found["reason"].tolist()) == {POPULAR}


def test_preferred_genres_lead_where_nothing_else_is_known(ratings: Ratings, packed: Packed) -> None:
    genres = {film.movie: film.genres for film in ratings.films}
    names = genre_names(ratings.films)
    found = packed(genres=["western", "No Such Genre"])
    assert np.mean(["Western" in genres[int(number)] for number in found["ids"]]) >= 0.5
    assert "Western" in genres[int(found["ids"][0])]
    assert GENRE in found["reason"]
    assert {int(number) for number in found["because"] if number} == {-1 - names.index("Western")}


def test_diversity_makes_the_films_less_alike(ratings: Ratings, learned: Learned, packed: Packed) -> None:
    by_number = {film.movie: place for place, film in enumerate(ratings.films)}

    def alike(diversity: float) -> float:
        total = 0.0
        for asked in EXAMPLES.values():
            if "like" not in asked:
                ids = packed(asked.get("history", ()), genres=asked.get("genres", ()), diversity=diversity)["ids"]
                rows = learned.genres[[by_number[int(number)] for number in ids]]
                total += float((rows @ rows.T)[np.triu_indices(20, 1)].mean())
        return total

    assert alike(0.0) > alike(0.3) > alike(0.7)


def test_numbers_that_no_film_has_and_stars_that_are_none_do_no_harm(packed: Packed) -> None:
    plain = packed([STAR_WARS], [4.0])
    for history, stars in (([STAR_WARS, 2**62, -5, 0], [4.0]), ([STAR_WARS, 3], [float("nan"), 1.0])):
        assert packed(history, stars)["scores"][0] == pytest.approx(plain["scores"][0], abs=1e-6)
    assert packed([STAR_WARS], [4.0], like=2**62)["ids"].tolist() == plain["ids"].tolist()


def test_an_answer_does_not_depend_on_who_shares_the_batch(pipeline: Pipeline) -> None:
    items = [dict(asked) for asked in EXAMPLES.values()]
    together = pipeline.batch(items)
    for item, result in zip(items, together, strict=True):
        alone = pipeline(item)
        assert alone.tensors["scores"] == pytest.approx(result.tensors["scores"], abs=1e-6)
        assert [film["id"] for film in alone.answer["recommendations"]] == [
            film["id"] for film in result.answer["recommendations"]
        ]


def test_an_answer_says_title_genres_score_and_reason(pipeline: Pipeline) -> None:
    answer = pipeline({"history": [STAR_WARS, EMPIRE], "stars": [5.0, 5.0]}).answer
    assert list(answer) == ["recommendations"]
    first = answer["recommendations"][0]
    assert len(answer["recommendations"]) == 10
    assert first["title"] == "Star Wars: Episode VI - Return of the Jedi (1983)"
    assert first["genres"] == ["Action", "Adventure", "Sci-Fi"]
    assert first["reason"].startswith("because you watched Star Wars: Episode ")


# What it is made from


@pytest.mark.parametrize("what", [print, Path, np.float64])
def test_a_table_that_names_anything_else_is_refused_unread(tmp_path: Path, what: Any) -> None:
    file = tmp_path / "table.pkl.xz"
    file.write_bytes(lzma.compress(pickle.dumps(what)))
    with pytest.raises(RefusedTable, match="not on the list"):
        read_table(file)


def test_a_pickle_without_a_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.pkl.xz"
    file.write_bytes(lzma.compress(pickle.dumps({"a": 1})))
    with pytest.raises(RefusedTable, match="no table"):
        read_table(file)
    file.write_bytes(b"no archive")
    with pytest.raises(RefusedTable, match="malformed"):
        read_table(file)


def test_the_ratings_are_movielens_latest_small_in_order_of_time(ratings: Ratings) -> None:
    assert (len(ratings), ratings.users, len(ratings.films)) == (100_004, 671, 9_066)
    assert np.all(np.diff(ratings.at_s) >= 0)
    assert set(np.unique(ratings.stars)) == set(np.arange(0.5, 5.5, 0.5))
    assert ratings.films[0].name == "Toy Story (1995)"
    titles = {film.movie: film.name for film in ratings.films}
    assert titles[MATRIX] == "The Matrix (1999)"
    assert not any(title.split(" (")[0].endswith((", The", ", A", ", An")) for title in titles.values())
