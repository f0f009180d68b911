"""Any change in the log, in its export or at its end is found; an anchor shows that its end is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.decide.audit import UnreadableEntry
from onward.decide.proof import drop_anchor, entries_of, entries_of_file, export, line_of, prove, read_anchor
from onward.store.chain import link
from onward.store.memory import MemoryStore
from onward.store.records import AuditDraft, AuditEntry

drafts = st.builds(
    AuditDraft,
    entry_id=st.text(max_size=5),
    at_s=st.floats(allow_nan=False, allow_infinity=False),
    tenant=st.text(max_size=5),
    kind=st.sampled_from(["decision", "action.done"]),
    subject=st.text(max_size=5),
    body=st.binary(max_size=20) | st.text(max_size=20).map(str.encode),
    key_id=st.text(max_size=3),
    sealed=st.binary(max_size=20),
)


def chain(wanted: list[AuditDraft]) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for draft in wanted:
        entries.append(link(draft, entries[-1] if entries else None))
    return entries


def log(length: int) -> list[AuditEntry]:
    return chain([
        AuditDraft(entry_id=f"e{n}", at_s=n / 7, tenant="t", kind="decision", subject=f"d{n}",
                   body=b'{"format":1,"n":"\xc3\xa9"}', key_id="k", sealed=bytes(range(n, n + 9)))
        for n in range(length)
    ])  # fmt: skip


def write_export(entries: list[AuditEntry], path: Path) -> Path:
    path.write_bytes(b"".join(map(line_of, entries)))
    return path


@given(st.lists(drafts, max_size=5))
def test_an_export_reads_back_as_it_was_and_holds(tmp_path_factory: pytest.TempPathFactory, wanted: Any) -> None:
    entries = chain(wanted)
    path = write_export(entries, tmp_path_factory.mktemp("export") / "log.jsonl")
    assert list(entries_of_file(path)) == entries
    proof = prove(entries_of_file(path))
    assert (proof.entries, proof.broken_at) == (len(entries), None)


def test_a_lines_digest_is_recomputed_as_the_reference_says_without_onward(tmp_path: Path) -> None:
    previous = "0" * 64
    for line in map(json.loads, write_export(log(3), tmp_path / "log.jsonl").read_text("utf-8").splitlines()):
        hasher = hashlib.sha256(b"onward-audit-1")
        for part in (
            struct.pack(">Q", line["sequence"]), previous.encode(), line["entry_id"].encode(),
            struct.pack(">d", line["at_s"]), line["tenant"].encode(), line["kind"].encode(), line["subject"].encode(),
            line["body"].encode(), line["key_id"].encode(), base64.b64decode(line["sealed"]),
        ):  # fmt: skip
            hasher.update(struct.pack(">Q", len(part)) + part)
        assert (line["previous"], line["digest"]) == (previous, hasher.hexdigest())
        previous = line["digest"]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte_of_an_export_is_found_at_its_entry(tmp_path: Path, data: st.DataObject) -> None:
    lines = list(map(line_of, log(4)))
    which = data.draw(st.integers(0, 3))
    place = data.draw(st.integers(0, len(lines[which]) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != lines[which][place]))
    lines[which] = lines[which][:place] + bytes([other]) + lines[which][place + 1 :]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(lines))
    proof = prove(entries_of_file(path))
    assert proof.broken_at == which + 1, proof
    assert proof.why


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_added_removed_or_moved_bytes_and_lines_are_found(tmp_path: Path, data: st.DataObject) -> None:
    whole = b"".join(map(line_of, log(4)))
    at = data.draw(st.integers(0, len(whole) - 2))
    added = data.draw(st.binary(max_size=3))
    removed = data.draw(st.integers(0, 3))
    changed = whole[:at] + added + whole[at + removed :]
    path = tmp_path / "log.jsonl"
    path.write_bytes(changed)
    ends_whole = whole.startswith(changed) and changed.endswith(b"\n")  # cut at an entry's end: the anchor's task
    assert (prove(entries_of_file(path), {4: log(4)[-1].digest}).broken_at is None) == (changed == whole)
    if changed != whole and not ends_whole and changed:
        assert prove(entries_of_file(path)).broken_at is not None


@pytest.mark.parametrize("name", [field.name for field in fields(AuditDraft)])
@pytest.mark.parametrize("value", [None, 7, 7.0, "x", b"x"])
def test_a_value_of_any_type_in_any_field_is_found_and_is_no_traceback(name: str, value: Any) -> None:
    entries = log(3)
    entries[1] = replace(entries[1], draft=replace(entries[1].draft, **{name: value}))
    assert prove(entries).broken_at == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: replace(entry, sequence=9),
        lambda entry: replace(entry, sequence=-1),
        lambda entry: replace(entry, previous="0" * 64),
        lambda entry: replace(entry, digest="0" * 64),
    ],
)
def test_a_changed_link_is_found(change: Callable[[AuditEntry], AuditEntry]) -> None:
    entries = log(3)
    entries[1] = change(entries[1])
    assert prove(entries).broken_at == 2


def test_a_whole_new_log_is_found_by_an_anchor_only() -> None:
    forged = chain([replace(entry.draft, body=b"{}") for entry in log(3)])
    assert prove(forged).broken_at is None
    points = {2: log(3)[1].digest}
    assert prove(log(3), points).anchored == 1
    assert prove(forged, points).broken_at == 2


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_cut_end_is_found_by_an_anchor_only(kept: int, tmp_path: Path) -> None:
    entries, anchor = log(3), tmp_path / "anchor.jsonl"
    assert drop_anchor(anchor, prove(entries), now_s=0.0)
    assert prove(entries[:kept]).broken_at is None
    proof = prove(entries[:kept], read_anchor(anchor))
    assert proof.broken_at == kept + 1
    assert "the anchor has seen entry 3" in proof.why


def test_an_anchor_grows_with_the_log_and_holds_every_point_once(tmp_path: Path) -> None:
    anchor = tmp_path / "anchor.jsonl"
    assert not drop_anchor(anchor, prove([]), now_s=0.0)
    for length in (1, 3, 3):
        drop_anchor(anchor, prove(log(length), read_anchor(anchor)), now_s=1e9)
    entries = log(3)
    assert read_anchor(anchor) == {1: entries[0].digest, 3: entries[2].digest}
    assert anchor.read_text("utf-8").count("2001-09-09T01:46:40+00:00") == 2


def test_a_broken_log_is_not_anchored(tmp_path: Path) -> None:
    entries = log(3)
    del entries[1]
    assert not drop_anchor(tmp_path / "anchor", prove(entries), now_s=0.0)
    assert not (tmp_path / "anchor").exists()


@pytest.mark.parametrize("text", ["x\n", "{}\n", '{"sequence":1,"digest":"a","at":"b"}'])
def test_an_anchor_that_is_not_whole_is_an_error_that_names_the_line(text: str, tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    anchor.write_text(text)
    with pytest.raises(UnreadableEntry, match="anchor:1"):
        read_anchor(anchor)


def test_a_part_holds_where_the_anchor_has_what_comes_before_it() -> None:
    entries = log(4)
    assert prove(entries[2:]).broken_at == 1
    proof = prove(entries[2:], {2: entries[1].digest})
    assert (proof.broken_at, proof.entries, proof.sequence, proof.anchored) == (None, 2, 4, 1)
    assert prove(entries[2:], {2: "0" * 64}).broken_at == 1


def test_a_store_is_read_page_by_page_and_exported_from_any_entry_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onward.decide.proof._PAGE", 2)
    store = MemoryStore()
    with store.transaction() as tx:
        for entry in log(5):
            tx.append_audit(entry.draft)
    lines: list[bytes] = []
    with store.snapshot() as reader:
        assert list(entries_of(reader)) == log(5)
        assert export(reader, lines.append, after=3) == 2
    assert lines == list(map(line_of, log(5)[3:]))
