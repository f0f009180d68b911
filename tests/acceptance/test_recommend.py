"""A recommender that knows its people: an event changes the very next answer of a real server."""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Server, serving

pytestmark = pytest.mark.weights
BUILT = Path(__file__).parents[2] / "var" / "repository" / "recommend" / "1.0.0"
STAR_WARS, EMPIRE, ALIEN = 260, 1196, 1214


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    folder = root / "recommend" / "1.0.0"
    if (BUILT / "onward.lock").is_file():
        shutil.copytree(BUILT, folder)
        return root
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "scipy")):
        pytest.skip("recommend is not built, and building it needs the extra `pack`")
    from gallery.recommend.build import build
    from onward.package.assembly import assemble

    build(folder, progress=lambda what, share: None)
    assemble(folder)
    return root


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("place")
    store = ("--store", f"sqlite:///{place / 'onward.db'}", "--key-file", str(place / "keys"))
    with serving(repository, *store) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as opened:
        yield opened


def films(client: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    response = client.post("/models/recommend", json=asked)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["answer"]["recommendations"]
    return found


def tell(client: httpx.Client, person: str, *events: dict[str, Any], tenant: str = "default") -> None:
    response = client.post(f"/profiles/{person}/events", json=list(events), headers={"x-onward-tenant": tenant})
    assert response.status_code in (200, 201, 202), response.text


def rated(movie: int, stars: float, **more: Any) -> dict[str, Any]:
    return {"kind": "rating", "data": {"movie": movie, "stars": stars}, **more}


def test_each_event_changes_the_very_next_answer_and_what_was_seen_is_not_recommended(client: httpx.Client) -> None:
    before = films(client, person="ann")
    assert {film["reason"] for film in before} == {"popular now"}
    seen: list[int] = []
    for _ in range(8):
        favourite = before[0]["id"]
        tell(client, "ann", rated(favourite, 5.0))
        seen.append(favourite)
        after = films(client, person="ann")
        assert not {film["id"] for film in after} & set(seen)
        assert after != before
        before = after
    assert any(film["reason"].startswith("because you watched ") for film in before)


def test_a_film_liked_brings_its_like_and_a_film_disliked_does_not(client: httpx.Client) -> None:
    tell(client, "ben", rated(STAR_WARS, 5.0))
    tell(client, "cleo", rated(STAR_WARS, 1.0))
    assert EMPIRE in [film["id"] for film in films(client, person="ben")[:3]]
    assert "because you watched Star Wars: Episode IV - A New Hope (1977)" in films(client, person="ben")[0]["reason"]
    assert {film["reason"] for film in films(client, person="cleo")} == {"popular now"}


def test_who_only_says_which_genres_they_like_gets_those(client: httpx.Client) -> None:
    tell(client, "dora", {"kind": "preference", "data": {"genre": "Animation"}})
    found = films(client, person="dora")
    assert "because you like Animation" in {film["reason"] for film in found}
    assert sum("Animation" in film["genres"] for film in found) >= 5


def test_a_profile_answers_as_the_same_history_given_with_the_request(client: httpx.Client) -> None:
    watched = {"kind": "watch", "data": {"movie": STAR_WARS}, "at": 2000.0}
    tell(client, "eva", rated(EMPIRE, 3.5, at=3000.0), watched, rated(ALIEN, 4.5, at=1000.0))
    given = films(client, history=[EMPIRE, STAR_WARS, ALIEN], stars=[3.5, 4.0, 4.5])
    assert films(client, person="eva") == given


def test_one_tenant_s_events_do_not_reach_another_s_answers(client: httpx.Client) -> None:
    tell(client, "fay", rated(STAR_WARS, 5.0), tenant="elsewhere")
    assert {film["reason"] for film in films(client, person="fay")} == {"popular now"}


def test_a_person_who_is_erased_is_unknown_at_once(client: httpx.Client) -> None:
    unknown = films(client, person="nobody")
    tell(client, "gus", rated(STAR_WARS, 5.0))
    assert films(client, person="gus") != unknown
    assert client.delete("/profiles/gus").status_code == 200
    assert films(client, person="gus") == unknown


def test_films_like_one_need_nobody(client: httpx.Client) -> None:
    found = films(client, like=ALIEN)
    assert found[0]["title"] == "Aliens (1986)"
    assert {film["reason"] for film in found} == {"like Alien (1979)"}


def test_an_answer_from_a_profile_takes_a_few_milliseconds(client: httpx.Client) -> None:
    """A loose bound: bench/recommend.py measures it."""
    tell(client, "hal", *[rated(movie, 4.0) for movie in range(1, 60)])
    body = json.dumps({"person": "hal"})
    taken_s = []
    for _ in range(50):
        started = time.perf_counter()
        client.post("/models/recommend", content=body, headers={"content-type": "application/json"})
        taken_s.append(time.perf_counter() - started)
    assert statistics.median(taken_s) < 0.05
