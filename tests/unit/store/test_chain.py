"""The hash chain shows every change, whatever field it is made in."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from onward.store.chain import first_break, link
from onward.store.records import AuditDraft, AuditEntry


def chain(length: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for index in range(length):
        draft = AuditDraft(
            entry_id=f"e{index}",
            at_s=float(index),
            tenant="t",
            kind="k",
            subject="s",
            body=b"b",
            key_id="i",
            sealed=b"c",
        )
        entries.append(link(draft, entries[-1] if entries else None))
    return entries


def test_an_untouched_chain_holds_from_its_start_and_from_any_entry_on() -> None:
    entries = chain(4)
    assert first_break(entries) is None
    assert first_break(entries[2:], after=entries[1]) is None


@pytest.mark.parametrize("name", [field.name for field in fields(AuditDraft)])
def test_a_change_in_any_field_breaks_the_chain_at_that_entry(name: str) -> None:
    entries = chain(4)
    others: dict[type, Any] = {str: "other", float: 77.0, bytes: b"other"}
    changed = others[type(getattr(entries[2].draft, name))]
    entries[2] = replace(entries[2], draft=replace(entries[2].draft, **{name: changed}))
    assert first_break(entries) == 3


def test_moving_bytes_from_one_field_to_its_neighbour_breaks_the_chain() -> None:
    (entry,) = chain(1)
    moved = replace(entry.draft, tenant="tk", kind="")
    assert first_break([replace(entry, draft=moved)]) == 1


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_missing_entry_breaks_the_chain(removed: int) -> None:
    entries = chain(4)
    del entries[removed]
    assert first_break(entries) == removed + 1


def test_a_forged_entry_breaks_the_chain_at_the_next_one() -> None:
    entries = chain(4)
    entries[1] = link(replace(entries[1].draft, body=b"forged"), entries[0])
    assert first_break(entries) == 3
