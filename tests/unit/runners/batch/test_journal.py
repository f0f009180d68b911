"""The journal: whole lines count, a line that a crash cut off does not, wherever it was cut."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from onward.runners.batch.errors import JobChanged
from onward.runners.batch.journal import Journal
from onward.runners.batch.records import ShardDone
from tests.unit.runners.batch.jobs import plan


def shard(index: int) -> ShardDone:
    return ShardDone(index=index, rows=10, answers=9, rejects=1, digest=f"{index:064x}", source="s")


def journal(file: Path, *, shards: int = 0) -> Journal:
    made = Journal(file)
    made.begin({"run_id": "r", "plan": msgspec.to_builtins(plan()), "job": {"input": [1]}})
    for index in range(shards):
        made.commit(shard(index))
    return made


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = journal(tmp_path / "j", shards=3)
    written.note_digest("d")
    written.close()
    found = Journal(tmp_path / "j")
    assert found.head == {"run_id": "r", "plan": msgspec.to_builtins(plan()), "job": {"input": [1]}}
    assert found.plan == plan() and found.shards == {at: shard(at) for at in range(3)} and found.input_digest == "d"
    found.close()


def test_cut_off_at_any_byte_it_has_the_lines_before_and_goes_on_behind_them(tmp_path: Path) -> None:
    file = tmp_path / "j"
    journal(file, shards=2).close()
    whole = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        found = Journal(file)
        lines = sum(end <= cut for end in ends)
        assert (found.head is not None, len(found.shards)) == (lines > 0, max(lines - 1, 0))
        if found.head is None:
            found.begin({"run_id": "r", "plan": {}, "job": {}})
        found.commit(shard(7))
        found.close()
        assert [json.loads(line)["kind"] for line in file.read_bytes().splitlines()][-1] == "shard"


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"kind":"job","format":2}\n')
    with pytest.raises(JobChanged):
        Journal(tmp_path / "j")


def test_a_journal_of_before_databases_is_read(tmp_path: Path) -> None:
    line = {"kind": "shard", "index": 0, "rows": 1, "answers": 1, "rejects": 0, "digest": "0"}
    (tmp_path / "j").write_text('{"kind":"job","format":1,"run_id":"r"}\n' + json.dumps(line) + "\n")
    found = Journal(tmp_path / "j")
    assert found.shards[0].source == ""
    found.close()
