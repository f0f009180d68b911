"""Inputs to compare runners by, made of golden examples."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from onward.errors import PackageError
from onward.package.package import open_package
from onward.pipeline import Pipeline
from onward.runners.agreement.inputs import inputs_of
from onward.testing import tiny_package
from tests.acceptance.conftest import write_loan, write_shade


def test_the_golden_inputs_come_first_and_are_never_left_out(tmp_path: Path) -> None:
    write_loan(tmp_path / "loan")
    package = open_package(tmp_path / "loan")
    assert inputs_of(package, 1) == inputs_of(package, 20)[:1]
    assert inputs_of(package, 20)[0]["purpose"] == "car"


def test_the_same_seed_makes_the_same_inputs_and_another_does_not(tmp_path: Path) -> None:
    write_shade(tmp_path / "shade")
    package = open_package(tmp_path / "shade")
    assert inputs_of(package, 5, seed=1) == inputs_of(package, 5, seed=1)
    assert inputs_of(package, 5, seed=1) != inputs_of(package, 5, seed=2)


def test_made_pictures_are_parts_of_the_known_ones_and_the_package_answers_them(tmp_path: Path) -> None:
    write_shade(tmp_path / "shade")
    with Pipeline.open(tmp_path / "shade") as pipeline:
        items = inputs_of(pipeline.package, 12)
        assert [result.answer["label"] for result in pipeline.batch(items)] == ["blue"] * 12
    pictures = [Image.open(io.BytesIO(item["image"])) for item in items[1:]]
    assert {picture.format for picture in pictures} == {"PNG", "JPEG"}
    assert len({picture.size for picture in pictures}) > 5


def test_a_package_without_examples_is_refused(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny")
    (folder / "examples.jsonl").unlink(missing_ok=True)
    with pytest.raises(PackageError, match="no golden examples"):
        inputs_of(open_package(folder, verify=False), 3)
