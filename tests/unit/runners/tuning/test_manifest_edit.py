"""Values change in a manifest's text, and nothing else does."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import ManifestError
from onward.runners.tuning.manifest_edit import changed

NEW: dict[str, int | str] = {"batching.max_batch_size": 32, "execute.instances": 2, "execute.threads": 1}


def test_values_change_where_they_stand_and_comments_stay() -> None:
    text = """# mine
[package]
version = "1.0.0"   # the first
[execute]
backend = "onnx" # instances = 9
instances = 1  # one is enough
threads=0
[batching]
# max_batch_size = 5
max_batch_size = 6_4
"""
    assert (
        changed(text, NEW | {"package.version": "1.0.1"})
        == """# mine
[package]
version = "1.0.1"   # the first
[execute]
backend = "onnx" # instances = 9
instances = 2  # one is enough
threads=1
[batching]
# max_batch_size = 5
max_batch_size = 32
"""
    )


def test_what_is_missing_is_written_where_it_belongs_in_order() -> None:
    assert changed('[execute]\nfile = "m"\n', NEW) == (
        '[execute]\ninstances = 2\nthreads = 1\nfile = "m"\n\n[batching]\nmax_batch_size = 32\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        "execute = { instances = 1, threads = 4 } # both\nbatching = {}\n",
        "execute.threads = 4\nexecute.instances = 7\nbatching.pad.ids = 0\n",
        '"execute" = {instances = 1}\n[batching]\npad = { ids = 0 }',
        "[execute]\r\nthreads = 2\r\n[batching] # here\r\nmode = 'invariant'\r\n",
        "[batching.pad]\nids = 0\n[execute]\n",
        'execute = { file = "max_batch_size = 5", threads = 0 }\n',
    ],
)
def test_every_way_of_writing_a_table_is_changed_by_exactly_that(text: str) -> None:
    wanted = tomllib.loads(text)
    for path, value in NEW.items():
        section, key = path.split(".")
        wanted.setdefault(section, {})[key] = value
    try:
        made = changed(text, NEW)
    except ManifestError:
        pytest.fail("refused")
    assert tomllib.loads(made) == wanted
    assert made.count("#") == text.count("#") and ("\r\n" in made) == ("\r\n" in text)


def test_what_cannot_be_changed_alone_is_refused() -> None:
    with pytest.raises(ManifestError, match="by hand"):
        changed('execute = { "threads" = 9, instances = 1 }\n', NEW)


@given(
    st.dictionaries(
        st.sampled_from(["execute.instances", "execute.threads", "batching.max_batch_size"]), st.integers(0, 999)
    ),
    st.sampled_from(["", "\n# end", "\n[limits]\nrows = 3\n"]),
)
def test_once_changed_again_is_the_same(values: dict[str, int | str], more: str) -> None:
    once = changed("[execute]\nthreads = 5\n[batching]\n" + more, values)
    assert changed(once, values) == once
