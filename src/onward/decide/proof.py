"""That nobody changed the audit log: the chain checked from its first entry, from a store or from an exported file.

An export is JSON lines, an entry a line, with every field that its digest covers, so it can be checked without Onward
(`onward.store.chain` says how). A chain alone does not show that its end is missing; an *anchor* does: a file, kept
where the log's keeper cannot write, with the log's end as it was at each check.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from onward.decide.audit import UnreadableEntry
from onward.errors import OnwardError
from onward.store.chain import ORIGIN, entry_digest
from onward.store.records import AuditDraft, AuditEntry
from onward.store.store import Reader, StoreUnavailable

_PAGE = 1000


class AuditBroken(OnwardError):
    """The audit log was changed or cut."""

    code = "AUDIT_BROKEN"
    status = 500
    exit_code = 65


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a check of a log found: `entries` that hold, up to `sequence`; `broken_at` is the first that does not.

    `anchored` counts the anchor's points that the log was held against.
    """

    entries: int
    sequence: int
    digest: str
    anchored: int = 0
    broken_at: int | None = None
    why: str = ""


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of an anchor: the log's end at a time (ISO 8601)."""

    sequence: int
    digest: str
    at: str


class _Line(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of an export. Where a body is no text, which only tampering makes it, it stands in `body_base64`."""

    sequence: int
    previous: str
    digest: str
    entry_id: str
    at_s: float
    tenant: str
    kind: str
    subject: str
    body: str = ""
    body_base64: bytes = b""
    key_id: str = ""
    sealed: bytes = b""


def entries_of(reader: Reader, *, after: int = 0) -> Iterator[AuditEntry]:
    """All entries of a store after a sequence number, read a page at a time.

    Raises `UnreadableEntry` for one that the database itself cannot read any more.
    """
    while page := _page(reader, after, _PAGE):
        yield from page
        if page[-1].sequence <= after:  # only where someone has changed the numbers; the chain shows it
            return
        after = page[-1].sequence


def _page(reader: Reader, after: int, limit: int) -> list[AuditEntry]:
    try:
        return reader.audit_entries(after=after, limit=limit)
    except (StoreUnavailable, TypeError, ValueError) as error:
        if limit > 1:
            return _page(reader, after, 1)
        reader.key("")  # where the store is away, this raises, too
        raise UnreadableEntry(where=f"the entry after {after}", found=str(error)) from None


def prove(entries: Iterable[AuditEntry], points: Mapping[int, str] | None = None) -> Proof:
    """Check a chain from its start, and against the `points` of an anchor: {sequence: digest}.

    A part of a log is checked, too, where the anchor has the entry before it. Reads no further than the first break.
    """
    points = points or {}
    count, sequence, previous, anchored = 0, 0, ORIGIN, 0
    try:
        for entry in entries:
            if not count and entry.sequence > 1 and points.get(entry.sequence - 1) == entry.previous:
                sequence, previous, anchored = entry.sequence - 1, entry.previous, 1
            why = _fault(entry, sequence, previous, points.get(entry.sequence))
            if why:
                return Proof(entries=count, sequence=sequence, digest=previous, anchored=anchored,
                             broken_at=sequence + 1, why=why)  # fmt: skip
            anchored += entry.sequence in points
            count, sequence, previous = count + 1, entry.sequence, entry.digest
    except UnreadableEntry as error:
        return Proof(entries=count, sequence=sequence, digest=previous, anchored=anchored, broken_at=sequence + 1,
                     why=str(error))  # fmt: skip
    proof = Proof(entries=count, sequence=sequence, digest=previous, anchored=anchored)
    last = max(points, default=0)
    if last > sequence:
        why = f"the log ends with entry {sequence}, and the anchor has seen entry {last}"
        proof = replace(proof, broken_at=sequence + 1, why=why)
    return proof


def _fault(entry: AuditEntry, sequence: int, previous: str, point: str | None) -> str:
    """What is wrong with the entry that should follow; "" where it is right."""
    if entry.sequence != sequence + 1:
        return f"entry {sequence + 1} is missing; entry {entry.sequence} stands in its place"
    if entry.previous != previous:
        return f"entry {entry.sequence} does not follow the one before it"
    try:
        digest = entry_digest(entry.sequence, entry.previous, entry.draft)
    except (struct.error, AttributeError, TypeError, ValueError) as error:  # a value of another type
        return f"entry {entry.sequence} was changed: {error}"
    if entry.digest != digest:
        return f"entry {entry.sequence} was changed"
    if point is not None and point != digest:
        return f"entry {entry.sequence} is not the one that the anchor has seen"
    return ""


def export(reader: Reader, write: Callable[[bytes], object], *, after: int = 0) -> int:
    """Write the entries after a sequence number as JSON lines; how many there were."""
    count = 0
    for entry in entries_of(reader, after=after):
        write(line_of(entry))
        count += 1
    return count


def line_of(entry: AuditEntry) -> bytes:
    """An entry as a line of an export."""
    draft = entry.draft
    try:
        text, data = draft.body.decode(), b""
    except UnicodeDecodeError:
        text, data = "", draft.body
    line = _Line(
        sequence=entry.sequence,
        previous=entry.previous,
        digest=entry.digest,
        entry_id=draft.entry_id,
        at_s=draft.at_s,
        tenant=draft.tenant,
        kind=draft.kind,
        subject=draft.subject,
        body=text,
        body_base64=data,
        key_id=draft.key_id,
        sealed=draft.sealed,
    )
    return msgspec.json.encode(line) + b"\n"


def entries_of_file(path: Path) -> Iterator[AuditEntry]:
    """The entries of an export. Raises `UnreadableEntry` at a line that is not exactly as `export` writes it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name}:{number}"
            try:
                entry = _entry_of(msgspec.json.decode(line, type=_Line))
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise UnreadableEntry(where=where, expected="a line of an export", found=str(error)) from None
            if line_of(entry) != line:
                raise UnreadableEntry("the line is not as it was written", where=where)
            yield entry


def _entry_of(line: _Line) -> AuditEntry:
    draft = AuditDraft(
        entry_id=line.entry_id,
        at_s=line.at_s,
        tenant=line.tenant,
        kind=line.kind,
        subject=line.subject,
        body=line.body_base64 or line.body.encode(),
        key_id=line.key_id,
        sealed=line.sealed,
    )
    return AuditEntry(sequence=line.sequence, previous=line.previous, digest=line.digest, draft=draft)


def read_anchor(path: Path) -> dict[int, str]:
    """The points of an anchor, {sequence: digest}; none where there is no file yet. Raises `UnreadableEntry`."""
    points: dict[int, str] = {}
    if not path.exists():
        return points
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        where = f"{path.name}:{number}"
        try:
            point = msgspec.json.decode(line, type=Point)
        except (msgspec.DecodeError, ValueError) as error:
            expected = "a line of an anchor: sequence, digest, at"
            raise UnreadableEntry(where=where, expected=expected, found=str(error)) from None
        if not line.endswith(b"\n") or points.get(point.sequence, point.digest) != point.digest:
            raise UnreadableEntry("the anchor contradicts itself, or its last line is not whole", where=where)
        points[point.sequence] = point.digest
    return points


def drop_anchor(path: Path, proof: Proof, *, now_s: float) -> bool:
    """Add the end of a log that holds to an anchor; False where the log is empty or the anchor has it already."""
    if proof.broken_at is not None or not proof.sequence or proof.sequence in read_anchor(path):
        return False
    at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
    line = msgspec.json.encode(Point(sequence=proof.sequence, digest=proof.digest, at=at)) + b"\n"
    with path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return True
