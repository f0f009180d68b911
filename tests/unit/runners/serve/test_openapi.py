"""The OpenAPI document: what a package declares is what it says, and every reference in it leads somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from onward.pipeline import Pipeline
from onward.runners.serve.openapi import document
from onward.runners.serve.served import ServedModel
from onward.testing import tiny_package
from tests.acceptance.conftest import write_loan, write_shade


class Served:
    """As much of a served version as the document is made of."""

    def __init__(self, pipeline: Pipeline, decider: object = None) -> None:
        self.pipeline = pipeline
        self.signature = pipeline.signature
        self.id = pipeline.package.id
        self.decider = decider


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("packages")
    write_loan(root / "loan")
    write_shade(root / "shade")
    tiny_package(root / "tiny")
    served = [Served(Pipeline.open(root / name), object() if name == "tiny" else None)
              for name in ("loan", "shade", "tiny")]  # fmt: skip
    asked = cast(list[ServedModel], served)
    return document(asked, asked[:1])


def operation(made: dict[str, Any], path: str) -> dict[str, Any]:
    return cast(dict[str, Any], made["paths"][path]["post"])


def item(made: dict[str, Any], path: str) -> dict[str, Any]:
    schema = operation(made, path)["requestBody"]["content"]["application/json"]["schema"]
    return cast(dict[str, Any], schema["oneOf"][0])


def test_the_newest_version_stands_under_its_name_and_every_version_under_its_own(made: dict[str, Any]) -> None:
    paths = [path for path in made["paths"] if path.startswith("/models/")]
    assert paths == [
        "/models/loan", "/models/loan/versions/1.2.0", "/models/shade/versions/1.0.0", "/models/tiny/versions/1.0.0",
    ]  # fmt: skip
    ids = [one["post"]["operationId"] for path, one in made["paths"].items() if path in paths]
    assert len(ids) == len(set(ids))


def test_a_field_is_what_the_manifest_says(made: dict[str, Any]) -> None:
    fields = item(made, "/models/loan")["properties"]
    assert fields["amount"] == {
        "type": "number", "minimum": 100.0, "maximum": 50000.0, "description": "How much is asked for. In EUR.",
    }  # fmt: skip
    assert fields["purpose"] == {"type": "string", "enum": ["car", "home", "other"]}
    assert (fields["years_employed"]["type"], fields["customer"]["type"]) == ("integer", "boolean")
    assert item(made, "/models/loan")["required"] == ["amount", "income", "purpose", "customer"]
    x = item(made, "/models/tiny/versions/1.0.0")["properties"]["x"]
    assert (x["type"], x["items"], x["minItems"], x["maxItems"]) == ("array", {"type": "number"}, 3, 3)


def test_an_answer_has_labels_in_the_place_of_scores(made: dict[str, Any]) -> None:
    one, many = operation(made, "/models/loan")["responses"]["200"]["content"]["application/json"]["schema"]["oneOf"]
    answer = one["properties"]["answer"]["properties"]
    assert answer.keys() == {"label", "score", "labels", "risk", "contributions"}
    assert answer["contributions"]["properties"].keys() == item(made, "/models/loan")["properties"].keys()
    assert many["properties"]["answers"]["items"]["properties"] == answer
    assert "decision" not in one["properties"]


def test_a_package_of_pictures_takes_pictures(made: dict[str, Any]) -> None:
    content = operation(made, "/models/shade/versions/1.0.0")["requestBody"]["content"]
    assert content.keys() == {"application/json", "application/x-ndjson", "image/*", "multipart/form-data"}


def test_only_where_a_policy_decides_are_there_decisions_and_keys(made: dict[str, Any]) -> None:
    decides, plain = operation(made, "/models/tiny/versions/1.0.0"), operation(made, "/models/loan")
    named = [{one["name"] for one in each["parameters"]} for each in (decides, plain)]
    assert named[0] - named[1] == {"x-onward-tenant", "idempotency-key"}
    assert named[1] - named[0] == {"outputs"}
    assert "422" in decides["responses"] and "422" not in plain["responses"]
    assert "504" in plain["responses"] and "504" not in decides["responses"]
    one = decides["responses"]["200"]["content"]["application/json"]["schema"]["oneOf"][0]
    assert "failure" not in one["required"] and "decision" in one["required"]


def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (value["$ref"],) if "$ref" in value else ()
            for part in value.values():
                yield from references(part)
        elif isinstance(value, list):
            for part in value:
                yield from references(part)

    found = set(references(made))
    assert found == {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}


@pytest.mark.parametrize("path", ["/models/loan", "/models/shade/versions/1.0.0"])
def test_every_package_takes_and_gives_lines(made: dict[str, Any], path: str) -> None:
    told = operation(made, path)
    for content in (told["requestBody"]["content"], told["responses"]["200"]["content"]):
        assert content["application/x-ndjson"]["schema"]["type"] == "string"
