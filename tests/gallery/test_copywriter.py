"""The gallery package `copywriter`: real texts of its model, checked as the package checks them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gallery.copywriter import build as copywriter
from gallery.copywriter.evaluate import Author, report
from onward.generate.prose import numbers, words
from onward.package.manifest import load_manifest
from onward.package.records import Prose

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("copywriter")
    copywriter.build(out, progress=lambda step, share: None)
    return out


@pytest.fixture(scope="module")
def author(folder: Path) -> Author:
    return Author(folder)


def test_products_are_many_and_different_and_have_facts() -> None:
    products = copywriter.products()
    assert len({item["product"] for item in products}) == len(products) >= 50
    assert all(len(item["facts"].splitlines()) >= 3 for item in products)
    assert sum(bool(numbers(item["facts"])) for item in products) >= 30  # facts with numbers are what can go wrong


def test_most_descriptions_pass_at_the_first_try(author: Author) -> None:
    texts = author.all([item | {"json": False} for item in copywriter.products()[:8]], seed=50)
    found = report(texts)
    assert found["passed_first_try"] >= 7, found["problems"]
    assert found["words_fewest"] >= 60
    assert found["sentences_fewest"] >= 3


def test_a_second_seed_writes_another_text_and_the_same_seed_the_same_kind(author: Author) -> None:
    item = copywriter.products()[5] | {"json": False}
    first, second = author(item, 1), author(item, 2)
    assert first.paragraph != second.paragraph
    assert first.paragraph.startswith(f"The {item['product']}")
    assert second.paragraph.startswith(f"The {item['product']}")


def test_json_mode_gives_the_schemas_members_and_bullets_are_facts(author: Author) -> None:
    items = [item | {"json": True} for item in copywriter.products()[8:12]]
    for text in author.all(items, seed=7):
        answer = json.loads(text.text)
        assert list(answer) == ["title", "paragraph", "bullets"]
        assert answer["title"] == text.item["product"]
        assert set(answer["bullets"]) <= set(text.item["facts"].splitlines())
        assert len(set(answer["bullets"])) == len(answer["bullets"]) >= 2
        assert words(answer["paragraph"]) >= 60


def test_facts_with_quotes_and_braces_do_not_break_the_grammar(author: Author) -> None:
    facts = 'says "hello" on 2 sides\nback\\slash\n{curly} [square] 3.5" wide'
    item = {"product": 'The "Odd" box ö', "facts": facts, "tone": "plain", "length": "short", "json": True}
    text = author(item, 3)
    assert json.loads(text.text)["title"] == item["product"]
    assert not [problem for problem in text.problems if "number" in problem]


def test_the_folder_has_every_file_that_its_manifest_names(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert [step.min_words for step in manifest.generate if isinstance(step, Prose)] == [60]
    assert {"onward.toml", "schema.json", "card.md", "model.gguf", "examples.jsonl"} <= {
        file.name for file in folder.iterdir()
    }
