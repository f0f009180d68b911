"""Rows of the tables as the store's records, and records as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import sqlalchemy as sa

from onward.store import tables
from onward.store.records import (
    Action,
    ActionDraft,
    ActionState,
    Approval,
    ApprovalState,
    AuditDraft,
    AuditEntry,
)

RecordT = TypeVar("RecordT")

ENTRY = tuple(tables.audit.c)
"""The columns of an audit entry, in the order of the table."""
ACTION = tuple(column for column in tables.actions.c if column.name != "place")
APPROVAL = tuple(tables.approvals.c)


def entry_of(row: Any) -> AuditEntry:
    """A row of `ENTRY`."""
    sequence, previous, digest, entry_id, at_s, tenant, kind, subject, body, key_id, sealed = row
    draft = AuditDraft(
        entry_id=entry_id,
        at_s=at_s,
        tenant=tenant,
        kind=kind,
        subject=subject,
        body=body,
        key_id=key_id,
        sealed=sealed,
    )
    return AuditEntry(sequence=sequence, previous=previous, digest=digest, draft=draft)


def row_of_entry(entry: AuditEntry) -> tuple[Any, ...]:
    """An entry as a row to be inserted."""
    draft = entry.draft
    return (
        entry.sequence,
        entry.previous,
        entry.digest,
        draft.entry_id,
        draft.at_s,
        draft.tenant,
        draft.kind,
        draft.subject,
        draft.body,
        draft.key_id,
        draft.sealed,
    )


def action_of(row: Any) -> Action:
    """A row of `ACTION`."""
    draft = ActionDraft(
        action_id=row[0],
        tenant=row[1],
        idempotency_key=row[2],
        decision_id=row[3],
        name=row[4],
        payload=row[5],
        payload_digest=row[6],
        created_s=row[7],
        available_s=row[8],
        key_id=row[9],
        needs_approval=bool(row[10]),
    )
    return Action(
        draft=draft,
        state=ActionState(row[11]),
        attempt=row[12],
        available_s=row[13],
        updated_s=row[14],
        owner=row[15],
        lease_until_s=row[16],
        error=row[17],
        receipt=row[18],
    )


def row_of_action(action: Action) -> tuple[Any, ...]:
    """An action as a row to be inserted."""
    draft = action.draft
    return (
        draft.action_id,
        draft.tenant,
        draft.idempotency_key,
        draft.decision_id,
        draft.name,
        draft.payload,
        draft.payload_digest,
        draft.created_s,
        draft.available_s,
        draft.key_id,
        draft.needs_approval,
        action.state.value,
        action.attempt,
        action.available_s,
        action.updated_s,
        action.owner,
        action.lease_until_s,
        action.error,
        action.receipt,
    )


def changes_of_action(action: Action) -> Mapping[str, Any]:
    """What may change of an action, and `the_id` to find it by."""
    return {
        "the_id": action.draft.action_id,
        "state": action.state.value,
        "attempt": action.attempt,
        "available_s": action.available_s,
        "updated_s": action.updated_s,
        "owner": action.owner,
        "lease_until_s": action.lease_until_s,
        "error": action.error,
        "receipt": action.receipt,
    }


def approval_of(row: Any) -> Approval:
    """A row of `APPROVAL`."""
    values = {column.name: value for column, value in zip(APPROVAL, row, strict=True)}
    return Approval(**values | {"state": ApprovalState(values["state"])})


def columns(table: sa.Table, record: type[Any]) -> tuple[sa.Column[Any], ...]:
    """The columns that a record's fields are named like, in their order."""
    return tuple(table.c[field.name] for field in fields(record))


def reading(record: type[RecordT]) -> Callable[[Any], RecordT]:
    """A function that makes the record of a row of `columns(…, record)`."""
    names = tuple(field.name for field in fields(record))  # type: ignore[arg-type]

    def read(row: Any) -> RecordT:
        return record(**dict(zip(names, row, strict=True)))

    return read


def values_of(record: Any) -> dict[str, Any]:
    """A flat record as the values of its columns."""
    return {field.name: getattr(record, field.name) for field in fields(record)}
