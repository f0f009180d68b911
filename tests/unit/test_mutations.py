"""What `make mutate` switches off is there, once, and so are the tests that have to notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_protection_that_is_switched_off_is_there_and_has_tests(mutation: Mutation) -> None:
    text = (ROOT / "src" / "onward" / mutation.file).read_text("utf-8")
    assert text.count(mutation.before) == 1 and mutation.before != mutation.after
    files = [argument for argument in mutation.tests if argument.startswith("tests/")]
    assert files and all((ROOT / file).is_file() for file in files)


def test_no_two_have_one_name() -> None:
    assert len({(one.name, one.file) for one in MUTATIONS}) == len(MUTATIONS)
