"""What sources share: the digest and facts of files, and record batches cut to size."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from onward.runners.batch.source import Files, chunk_of_columns, cut


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 25), st.integers(0, 1000))
def test_batches_of_any_sizes_become_chunks_of_one(sizes: list[int], size: int, start: int) -> None:
    total = sum(sizes)
    values = iter(range(total))
    batches = [pa.record_batch({"a": pa.array([next(values) for _ in range(one)], pa.int64())}) for one in sizes]
    chunks = list(cut(batches, size, start=start))
    assert [value for chunk in chunks for value in chunk.table.column("a").to_pylist()] == list(range(total))
    assert [row for chunk in chunks for row in chunk.rows] == list(range(start, start + total))
    assert all(chunk.table.num_rows == size for chunk in chunks[:-1])


def test_the_digest_tells_contents_and_names_and_the_facts_tell_changes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    files = Files([tmp_path / "a", tmp_path / "b"], tmp_path)
    digest, facts = files.digest(), files.facts()
    os.utime(tmp_path / "b", (1, 1))
    assert files.digest() == digest and files.facts() != facts
    (tmp_path / "b").write_text("c")
    assert files.digest() != digest
    (tmp_path / "b").write_text("b")
    (tmp_path / "b").rename(tmp_path / "c")
    assert Files([tmp_path / "a", tmp_path / "c"], tmp_path).digest() != digest


def test_a_chunk_without_columns_still_has_rows() -> None:
    import numpy as np

    chunk = chunk_of_columns({}, np.arange(5))
    assert chunk.table.num_rows == 5 and chunk.table.num_columns == 0
    misfit = chunk_of_columns(
        {"a": (pa.array([None, 1]), {0: "x"}), "b": (pa.array([None, 1]), {0: "y"})}, np.arange(2)
    )
    assert misfit.raw == {0: {"a": "x", "b": "y"}}
