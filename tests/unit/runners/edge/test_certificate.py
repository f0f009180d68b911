"""A certificate says what was measured, and none is given where an answer differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from onward.errors import RunnersDisagree
from onward.package.package import Package, open_package
from onward.runners.edge.certificate import Measured, certify, own_answers
from onward.testing import tiny_package
from onward.types import Item


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return open_package(tiny_package(tmp_path / "tiny"))


def test_the_largest_difference_is_stated_and_equal_answers_are_counted(package: Package) -> None:
    def answering(items: Sequence[Item]) -> Measured:
        answers = [dict(answer) for answer in own_answers(package, items)]
        name, value = next(iter(answers[1].items()))
        answers[1][name] = [one * (1 + 4e-6) for one in value] if isinstance(value, list) else value * (1 + 4e-6)
        return Measured(answers=answers, runtime="here", ms_per_answer=1.23456)

    certificate = certify(package, "python", answering, 12)
    assert (certificate.inputs, certificate.agreeing, certificate.equal) == (12, 12, 11)
    assert 1e-7 < certificate.difference < 1e-5
    assert (certificate.runtime, certificate.ms_per_answer) == ("here", 1.235)


def test_one_answer_that_differs_is_one_too_many(package: Package) -> None:
    def answering(items: Sequence[Item]) -> Measured:
        answers = own_answers(package, items)
        return Measured(answers=[*answers[:-1], {"error": "OUT_OF_RANGE"}], runtime="here")

    with pytest.raises(RunnersDisagree, match="11; input 11"):
        certify(package, "python", answering, 12)


def test_where_nothing_was_compared_it_says_why(package: Package) -> None:
    assert certify(package, "web", None, 12, note="no browser").note == "no browser"
    assert certify(package, "web", None, 0).note == "not asked for"
