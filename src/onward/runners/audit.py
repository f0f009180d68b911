"""The audit log for a person: checked, watched, written out. What is sealed stays sealed here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onward.decide.audit import UnreadableEntry, read_body
from onward.decide.proof import (
    AuditBroken,
    Proof,
    drop_anchor,
    entries_of,
    entries_of_file,
    prove,
    read_anchor,
)
from onward.decide.proof import export as export_entries
from onward.runners.installation import open_store
from onward.runners.tables import is_for_reading, moment, print_json, print_line, shown
from onward.store.records import AuditEntry

POLL_S = 0.3
_ID_CHARACTERS = 40


def verify(log: Path | None, store_url: str, *, anchor: Path | None, check_only: bool, as_json: bool) -> None:
    """Check a log: an exported file's, or the store's. Raises `AuditBroken` once it has said what is wrong.

    A log that holds is added to the anchor, unless `check_only`.
    """
    points = read_anchor(anchor) if anchor else {}
    if log is not None:
        proof = prove(entries_of_file(log), points)
    else:
        with open_store(store_url) as store, store.snapshot() as reader:
            proof = prove(entries_of(reader), points)
    anchored = anchor is not None and not check_only and drop_anchor(anchor, proof, now_s=time.time())
    _show_proof(proof, anchor, anchored, as_json)
    if proof.broken_at is not None:
        raise AuditBroken(proof.why, where=f"entry {proof.broken_at}")


def _show_proof(proof: Proof, anchor: Path | None, anchored: bool, as_json: bool) -> None:
    if not is_for_reading(as_json):
        report = {"holds": proof.broken_at is None, "entries": proof.entries, "sequence": proof.sequence,
                  "digest": proof.digest, "anchored": proof.anchored, "anchor_added": anchored,
                  "broken_at": proof.broken_at, "why": proof.why}  # fmt: skip
        print_json(report)
        return
    if proof.broken_at is None:
        print_line(f"the chain holds: {proof.entries} entries, up to {proof.sequence}", style="green")
    else:
        print_line(f"{proof.entries} entries hold, up to {proof.sequence}", style="yellow")
    print_line(f"digest   {proof.digest}", style="dim")
    if anchor is not None:
        added = "its end was added" if anchored else "nothing was added"
        print_line(f"anchor   {anchor}: {proof.anchored} points agree, {added}", style="dim")
    else:
        print_line("anchor   none: whether the end is missing, the chain cannot show", style="dim")


def tail(store_url: str, *, count: int, follow: bool, kind: str, as_json: bool) -> None:
    """The last entries, and with `follow` those that come, until interrupted."""
    reading = is_for_reading(as_json)
    with open_store(store_url) as store:
        with store.snapshot() as reader:
            last = reader.last_audit()
        after = max((last.sequence if last else 0) - count, 0)
        while True:
            with store.snapshot() as reader:
                page = reader.audit_entries(after=after)
            for entry in page:
                if entry.draft.kind.startswith(kind):
                    _show_entry(entry, reading)
            if page:
                after = page[-1].sequence
            elif follow:
                time.sleep(POLL_S)
            else:
                return


def _show_entry(entry: AuditEntry, reading: bool) -> None:
    draft = entry.draft
    try:
        body: Mapping[str, Any] = read_body(entry)
    except UnreadableEntry as error:
        body = {"unreadable": str(error)}
    if reading:
        line = f"{moment(draft.at_s)}  {entry.sequence:>6}  {draft.tenant}  {draft.kind:<18}"
        print_line(f"{line}  {draft.subject[:_ID_CHARACTERS]}  {summary(body)}")
    else:
        print_json({"sequence": entry.sequence, "at_s": draft.at_s, "at": moment(draft.at_s), "tenant": draft.tenant,
                    "kind": draft.kind, "subject": draft.subject, "body": body, "key_id": draft.key_id,
                    "digest": entry.digest})  # fmt: skip


def summary(body: Mapping[str, Any]) -> str:
    """An entry's body in a few words."""
    decision = body.get("decision")
    if isinstance(decision, Mapping):
        package = body.get("package")
        name = package.get("name", "") if isinstance(package, Mapping) else ""
        reasons = ", ".join(map(str, decision.get("reasons", [])))
        calls = ", ".join(str(call.get("name", "")) for call in decision.get("actions", []))
        told = f"{name}: {decision.get('outcome', '')} ({reasons}) by {decision.get('rule', '')}"
        return shown(f"{told} → {calls}" if calls else told)
    told = "  ".join(
        str(body[part]) for part in ("name", "why", "error", "action_id", "by", "note", "unreadable") if body.get(part)
    )
    return shown(told)


def export(store_url: str, out: Path | None, *, after: int, as_json: bool) -> None:
    """Write the log as JSON lines: to a file, which appears whole or not at all, or to standard output."""
    with open_store(store_url) as store, store.snapshot() as reader:
        if out is None:
            export_entries(reader, sys.stdout.buffer.write, after=after)
            sys.stdout.buffer.flush()
            return
        unfinished = out.with_name(f".{out.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                count = export_entries(reader, file.write, after=after)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(out)
        finally:
            unfinished.unlink(missing_ok=True)
    if is_for_reading(as_json):
        print_line(f"{count} entries → {out}", style="green")
    else:
        print_json({"entries": count, "path": str(out)})
