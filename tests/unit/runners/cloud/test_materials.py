"""The bill of materials is CycloneDX and lists what the image is made of, neither more nor less."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from onward.runners.cloud.distributions import pins
from onward.runners.cloud.materials import bill
from tests.unit.runners.cloud.conftest import Make
from tests.unit.runners.cloud.schemas import check_bill


@pytest.mark.parametrize("extras", [[], ["decide", "llm", "speech", "phonemes"]])
def test_it_is_what_the_published_schema_takes_and_lists_all(deployment: Make, extras: list[str]) -> None:
    packages = deployment().packages
    document = json.loads(bill("onward-tiny", "1.0.0", "0.1.0", "0" * 64, pins(extras), packages))
    check_bill(document)
    found = {(one["type"], one["name"], one["version"]) for one in document["components"]}
    assert found == (
        {("library", pin.name, pin.version) for pin in pins(extras)}
        | {("library", "onward", "0.1.0"), ("machine-learning-model", "tiny", "1.0.0")}
    )
    assert document["dependencies"][0]["dependsOn"] == [one["bom-ref"] for one in document["components"]]


def test_licences_are_those_of_the_installed_distributions(deployment: Make) -> None:
    document = json.loads(bill("x", "1", "0.1.0", "0" * 64, pins([]), deployment().packages))
    said = {one["name"]: one.get("licenses") for one in document["components"]}
    assert said["numpy"] == [{"expression": metadata.metadata("numpy")["License-Expression"]}]
    assert said["tiny"] == [{"license": {"name": "Apache-2.0"}}]


def test_the_same_contents_give_the_same_document_and_others_another(deployment: Make) -> None:
    packages = deployment().packages
    one, same = (bill("x", "1", "0.1.0", "0" * 64, pins([]), packages) for _ in range(2))
    other = bill("x", "1", "0.1.0", "1" * 64, pins([]), packages)
    assert one == same
    assert json.loads(one)["serialNumber"] != json.loads(other)["serialNumber"]
