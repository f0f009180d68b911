"""The audit log's hash chain: how an entry's digest is made, and a check that needs nothing but the entries.

An entry's digest is the SHA-256 of `onward-audit-1` followed by its fields, each with its length in bytes before it
as a big-endian u64: sequence (u64), previous, entry id, time (IEEE 754 double, big-endian), tenant, kind, subject,
body, key id, sealed. Whoever can read the entries can recompute it, in any language.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from onward.store.records import AuditDraft, AuditEntry

ORIGIN = "0" * 64
"""What the first entry has as `previous`."""


def link(draft: AuditDraft, last: AuditEntry | None) -> AuditEntry:
    """The draft as the entry that follows `last`."""
    sequence = last.sequence + 1 if last else 1
    previous = last.digest if last else ORIGIN
    return AuditEntry(sequence=sequence, previous=previous, digest=entry_digest(sequence, previous, draft), draft=draft)


def entry_digest(sequence: int, previous: str, draft: AuditDraft) -> str:
    """The digest of one entry, in hex."""
    parts = [b"onward-audit-1"]
    for field in (
        struct.pack(">Q", sequence),
        previous.encode(),
        draft.entry_id.encode(),
        struct.pack(">d", draft.at_s),
        draft.tenant.encode(),
        draft.kind.encode(),
        draft.subject.encode(),
        draft.body,
        draft.key_id.encode(),
        draft.sealed,
    ):
        parts += (len(field).to_bytes(8, "big"), field)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def first_break(entries: Iterable[AuditEntry], *, after: AuditEntry | None = None) -> int | None:
    """The sequence number at which the chain that follows `after` breaks; None where it holds.

    A log that was cut short at its end still holds: compare the last digest with one kept elsewhere.
    """
    last = after
    for entry in entries:
        if entry != link(entry.draft, last):
            return last.sequence + 1 if last else 1
        last = entry
    return None
