"""Records for ids: which, in what order, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onward.errors import ExecutionError, PackageError
from onward.generate.catalogue import CatalogueReading, read_catalogue
from onward.package.records import Catalogue
from onward.types import Array

LINES = '{"id": 1, "title": "Heat"}\n{"id": 7, "title": "Alien"}\n{"id": -1, "title": "Comedy"}\n'
STEP = Catalogue(
    ids="ids", scores="scores", because="because", reason="why", file="films.jsonl", top_k=2, output="films",
    reasons=("popular now", "because you watched {title}", "like {nothing}"),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "films.jsonl").write_text(LINES)
    return tmp_path


def outputs(ids: list[int], reasons: list[int], because: list[int]) -> dict[str, Array]:
    rows = {"ids": ids, "why": reasons, "because": because}
    tensors: dict[str, Array] = {name: np.array([row]) for name, row in rows.items()}
    return tensors | {"scores": np.linspace(1, 0, len(ids), dtype=np.float32)[None]}


def test_each_id_becomes_its_record_with_score_and_reason_in_the_order_given(folder: Path) -> None:
    answer = CatalogueReading(STEP, folder)(outputs([7, 1], [1, 0], [1, 0]))
    assert answer == {
        "films": [
            {"id": 7, "title": "Alien", "score": 1.0, "reason": "because you watched Heat"},
            {"id": 1, "title": "Heat", "score": 0.0, "reason": "popular now"},
        ]
    }


def test_no_more_than_top_k_are_answered_and_unknown_ids_take_no_place(folder: Path) -> None:
    answer = CatalogueReading(STEP, folder)(outputs([99, 7, 1, -1], [0] * 4, [0] * 4))
    assert [record["id"] for record in answer["films"]] == [7, 1]


def test_the_catalogue_stays_as_it_was_read(folder: Path) -> None:
    reading = CatalogueReading(STEP, folder)
    reading(outputs([7], [0], [0]))["films"][0]["title"] = "changed"
    assert reading(outputs([7], [0], [0]))["films"][0]["title"] == "Alien"


def test_what_a_record_lacks_stays_in_its_braces(folder: Path) -> None:
    answer = CatalogueReading(STEP, folder)(outputs([7, 1], [2, 1], [1, 99]))
    assert [record["reason"] for record in answer["films"]] == ["like {nothing}", "because you watched {title}"]


def test_a_reason_beyond_the_texts_is_an_error(folder: Path) -> None:
    with pytest.raises(ExecutionError, match="without a text"):
        CatalogueReading(STEP, folder)(outputs([7], [3], [0]))


@pytest.mark.parametrize(
    ("line", "message"),
    [("[1]", "not a record"), ("{", "not a record"), ('{"title": "x"}', "without an id"), ('{"id": true}', "without"),
     ('{"id": 7}', "given twice")],
)  # fmt: skip
def test_a_wrong_line_is_named(folder: Path, line: str, message: str) -> None:
    file = folder / "films.jsonl"
    file.write_text(LINES + line + "\n")
    with pytest.raises(PackageError, match=message) as raised:
        read_catalogue(file)
    assert raised.value.where == "films.jsonl:4"
