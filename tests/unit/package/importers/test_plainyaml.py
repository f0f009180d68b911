"""plainyaml.py against PyYAML, which writes MLmodel files."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import PackageError
from onward.package.importers.plainyaml import MAX_DEPTH, read_plain_yaml

CHARACTERS = st.characters(
    exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"
)  # YAML 1.1's further breaks
TEXTS = st.text(CHARACTERS, max_size=24) | st.text(alphabet="ab: -#'\"\\\n,[]{}0.", max_size=90)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
KEYS = st.text(CHARACTERS, min_size=1, max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


class Unaliased(yaml.SafeDumper):
    """MLflow's dumper; a value that stands twice is written twice, since an anchor is refused."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@settings(max_examples=400, deadline=None)
@given(VALUES, st.booleans())
def test_what_pyyaml_writes_is_read_to_the_same_values(value: Any, allow_unicode: bool) -> None:
    text = yaml.dump(value, Dumper=Unaliased, default_flow_style=False, allow_unicode=allow_unicode)
    if "? " in text and any(line.lstrip(" -").startswith("? ") for line in text.splitlines()):
        return  # a key over several lines, which no MLmodel has
    text = text.removesuffix("...\n")
    assert read_plain_yaml(text, "MLmodel") == value


def alike(found: Any, expected: Any) -> bool:
    """The same shape with the same texts; YAML 1.1's further ways to write a number or a date stay texts here."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return list(found) == list(expected) and all(alike(found[key], expected[key]) for key in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(alike, found, expected))
    return found == expected if isinstance(found, str) else isinstance(expected, str) or found is expected is None


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="ab:- #'\"\\\n,[]{}&*!|>\t01.~", max_size=80))
def test_any_text_is_read_as_pyyaml_reads_it_or_refused_with_its_line(text: str) -> None:
    try:
        found = read_plain_yaml(text, "MLmodel")
    except PackageError as error:
        assert error.where.startswith("MLmodel:")
        return
    try:
        expected = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        return  # PyYAML is stricter in places; nothing can run here
    assert alike(found, expected), (found, expected)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [ls]",
        "a: !tag x",
        "a: &anchor x",
        "a: *anchor",
        "a: |\n  block",
        "a: [1, 2]",
        "a: {b: 1}",
        "a: 1\n--- \nb: 2",
        "a: 1\na: 2",
        "a: 'open",
        'a: "\\q"',
        "a: 'x' y",
        "\ta: 1",
        "".join(f"{' ' * depth}a:\n" for depth in range(MAX_DEPTH + 2)) + " " * (MAX_DEPTH + 3) + "b",
    ],
)
def test_what_is_not_plain_is_refused_by_line(text: str) -> None:
    with pytest.raises(PackageError, match=r"^MLmodel:\d+: "):
        read_plain_yaml(text, "MLmodel")
