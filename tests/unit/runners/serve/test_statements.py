"""A page of the audit log is never too large to be told, and asking on after its last entry brings all of them."""

from __future__ import annotations

from typing import Any

from onward.runners.serve.statements import audit_page

LINES: list[dict[str, Any]] = [
    {"sequence": number, "body": "x" * size} for number, size in enumerate([10, 9 << 20, 6 << 20, 20 << 20, 10, 10], 1)
]


def sequences(lines: list[dict[str, Any]]) -> list[int]:
    return [line["sequence"] for line in lines]


def test_pages_after_each_other_hold_every_entry_once_and_none_is_too_large() -> None:
    pages: list[list[int]] = []
    while not pages or pages[-1]:
        after = pages[-1][-1] if pages else 0
        pages.append(sequences(audit_page([line for line in LINES if line["sequence"] > after], newest=False)))
    assert pages == [[1, 2, 3], [4], [5, 6], []]


def test_without_a_place_to_begin_the_last_entries_are_told_in_their_order() -> None:
    assert sequences(audit_page(LINES, newest=True)) == [5, 6]
    assert sequences(audit_page(LINES[:4], newest=True)) == [4]
