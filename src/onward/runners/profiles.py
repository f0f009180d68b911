"""What is known of somebody, for who runs the installation: given out, taken in, erased."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from onward.decide.audit import DECISION, note_erasure, read_decision
from onward.decide.proof import entries_of
from onward.errors import InputError, MalformedBody, NotFound
from onward.prepare.profile import check_entity
from onward.runners.installation import find_keys, open_store
from onward.runners.tables import is_for_reading, print_json, print_line
from onward.store.new_events import read_event
from onward.store.profiles import Profiles, readable
from onward.store.records import Action, AuditEntry, ProfileEvent
from onward.store.store import Reader, Store
from onward.store.writer import Writer

if TYPE_CHECKING:
    from onward.store.keys import Keys

_TOGETHER = 2000


@contextmanager
def _profiles(store_url: str, *, make: bool = False) -> Iterator[tuple[Profiles, Store]]:
    with open_store(store_url, make=make) as store:
        writer = Writer(store)
        try:
            yield Profiles(store, writer, note_erasure=note_erasure), store
        finally:
            writer.close()


def export(entity: str, store_url: str, *, tenant: str, key_file: Path | None = None) -> None:
    """All that is kept of an entity, as one line of JSON, with what was decided about it where the keys are at hand.

    Raises `NotFound` for nobody known.
    """
    check_entity(entity, where="ENTITY")
    with _profiles(store_url) as (profiles, store):
        found = profiles.export(tenant, entity)
        if not any(found[part] for part in ("key_id", "events", "conversations", "recordings")):
            raise NotFound("nothing is known of this entity", where=entity)
        keys = find_keys(store_url, key_file) if found["key_id"] else None
        with store.snapshot() as reader:
            found["decisions"] = [
                _decision(entry, keys, reader)
                for entry in (entries_of(reader) if found["key_id"] else ())
                if entry.draft.key_id == found["key_id"] and entry.draft.kind == DECISION
            ]
    print_json(found)


def _decision(entry: AuditEntry, keys: Keys | None, reader: Reader) -> dict[str, Any]:
    """A decision with the actions that it wanted; of what is sealed only that it is there, where no key opens it."""
    read = read_decision(entry, keys, reader)
    told = {"sequence": entry.sequence, "at_s": entry.draft.at_s, **msgspec.to_builtins(read)}
    told["actions"] = [
        {
            "action_id": action.draft.action_id,
            "name": action.draft.name,
            "state": action.state.value,
            "payload": _payload(action, keys, reader),
            "receipt": readable(action.receipt),
        }
        for action in reader.actions_of(read.decision_id)
    ]
    return told


def _payload(action: Action, keys: Keys | None, reader: Reader) -> Any:
    draft = action.draft
    if not draft.key_id:
        return readable(draft.payload)
    opened = keys.open(reader, draft.key_id, draft.payload) if keys is not None else None
    return None if opened is None else readable(opened)


def erase(entity: str, store_url: str, *, tenant: str, by: str, sure: bool, as_json: bool) -> None:
    """Erase an entity: what is sealed of it, too, can never be read again. In a terminal, asks first."""
    check_entity(entity, where="ENTITY")
    if not sure and sys.stdin.isatty() and is_for_reading(as_json):
        click.confirm(f"Erase all that is known of {entity}, for good?", abort=True)
    with _profiles(store_url) as (profiles, _):
        erased = profiles.erase(tenant, entity, by=by)
    counts: dict[str, int] = msgspec.to_builtins(erased)
    if is_for_reading(as_json):
        print_line("erased: " + ", ".join(f"{count} {what}" for what, count in counts.items()), style="green")
    else:
        print_json({"erased": counts})


def import_events(file: Path, store_url: str, *, tenant: str, as_json: bool) -> None:
    """Take in events, JSON lines with an `entity` each; an `id` that was taken in before is a duplicate.

    A line that is no event ends it; what came before it stays, so that the corrected file can be imported again.
    """
    accepted = duplicate = 0
    with _profiles(store_url, make=True) as (profiles, _), file.open("rb") as lines:
        events = _read_events(lines, file.name, tenant)
        while batch := list(islice(events, _TOGETHER)):
            ingested = profiles.append(batch).result()
            accepted, duplicate = accepted + ingested.accepted, duplicate + ingested.duplicate
    if is_for_reading(as_json):
        print_line(f"{accepted} events taken in, {duplicate} known already", style="green")
    else:
        print_json({"accepted": accepted, "duplicate": duplicate})


def _read_events(lines: Any, name: str, tenant: str) -> Iterator[ProfileEvent]:
    now_s = time.time()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}:{number}: "
        try:
            event: Mapping[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedBody(where=where.rstrip(": "), expected="a JSON object", found=str(error)) from None
        entity = event.get("entity")
        if not isinstance(entity, str):
            raise InputError("whose event it is", where=f"{where}entity", expected="text", found=type(entity).__name__)
        check_entity(entity, where=f"{where}entity")
        own = {key: value for key, value in event.items() if key != "entity"}
        yield read_event(own, tenant=tenant, entity=entity, now_s=now_s, where=where)
