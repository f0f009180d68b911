"""What is written is read back the same by YAML 1.1 readers, whatever the texts are."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onward.runners.cloud.yaml_text import document, documents

LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["no", "Yes", "1.0", "0x10", "1e3", "~", "null", "2026-11-25", "12:30:45", "<<", "- a", "a: b"])
)  # fmt: skip
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    LEAVES, lambda of: st.lists(of, max_size=4) | st.dictionaries(KEYS, of, max_size=4), max_leaves=20
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_document_is_read_back_the_same(value: dict[str, Any]) -> None:
    assert yaml.safe_load(document(value)) == value


@given(st.lists(st.dictionaries(KEYS, LEAVES, min_size=1, max_size=3), min_size=1, max_size=4))
def test_several_documents_stay_several(values: list[dict[str, Any]]) -> None:
    assert list(yaml.safe_load_all(documents(values))) == values


def test_a_text_cannot_break_out_of_its_place() -> None:
    text = 'x"\nprivileged: true\n---\nkind: Secret'
    assert yaml.safe_load(document({"name": text})) == {"name": text}


def test_plain_words_stay_plain_and_a_comment_stands_above() -> None:
    assert document({"apiVersion": "apps/v1", "on": "no"}, comment="two\nlines") == (
        '# two\n# lines\napiVersion: apps/v1\n"on": "no"\n'
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        document({"value": value})
