"""Errors have stable codes that are documented, and say where, what was expected and what was found."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onward
from onward.errors import OnwardError, Overloaded, WrongShape

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


def family() -> list[type[OnwardError]]:
    """Every error with a code of its own; the others are only ways to say the same."""
    for module in pkgutil.walk_packages(onward.__path__, "onward."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = [], [OnwardError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if "code" in vars(error) and error.__module__.startswith("onward."):
            found.append(error)
    return found


def row(error: type[OnwardError]) -> str:
    """The line of the table in the docs."""
    meaning = (error.__doc__ or "").strip().splitlines()[0]
    return f"| `{error.code}` | {error.status} | {error.exit_code} | {meaning} |"


def test_the_page_lists_every_error_with_its_code_statuses_and_meaning_and_nothing_else() -> None:
    listed = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(map(row, family()))


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in family()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", family(), ids=lambda error: error.__name__)
def test_every_error_has_a_message_of_its_own_and_valid_statuses(error: type[OnwardError]) -> None:
    meaning = (error.__doc__ or "").strip().splitlines()[0]
    assert str(error()).casefold() == meaning.rstrip(".").casefold()
    assert 400 <= error.status < 600
    assert 64 <= error.exit_code <= 78  # the range of sysexits.h


@given(st.text(max_size=20), st.text(st.characters(codec=None), min_size=1, max_size=9), st.integers(1, 5_000))
def test_an_error_can_be_written_and_kept_whatever_it_was_given(start: str, piece: str, times: int) -> None:
    error = WrongShape(start + piece * times, where=piece * times, expected=piece * times, found=piece * times)
    assert len(msgspec.json.encode(error.as_dict())) < 100_000
    assert str(error).encode() and error.code == "WRONG_SHAPE"


def test_the_rule_of_an_error_has_nothing_of_what_was_given() -> None:
    error = WrongShape(where="pixels", expected="[224, 224]", found="my secret")
    assert error.rule == "pixels: an input has another shape than the signature says; expected [224, 224]"


def test_an_error_says_where_what_was_expected_and_what_was_found() -> None:
    error = WrongShape(where="pixels", expected="[224, 224]", found="[1]")
    assert str(error) == "pixels: an input has another shape than the signature says; expected [224, 224]; found [1]"
    assert error.as_dict() == {
        "code": "WRONG_SHAPE",
        "message": str(error),
        "field": "pixels",
        "expected": "[224, 224]",
        "found": "[1]",
    }


def test_as_dict_leaves_out_what_is_not_known() -> None:
    assert OnwardError("odd").as_dict() == {"code": "INTERNAL", "message": "odd"}


def test_overloaded_says_when_to_come_back() -> None:
    assert Overloaded(retry_after_s=0.25).retry_after_s == 0.25
