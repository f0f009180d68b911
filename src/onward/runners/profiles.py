"""What is known of somebody, for who runs the installation: given out, taken in, erased."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec

from onward.decide.audit import note_erasure
from onward.errors import InputError, MalformedBody, NotFound
from onward.prepare.profile import check_entity
from onward.runners.installation import open_store
from onward.runners.tables import is_for_reading, print_json, print_line
from onward.store.new_events import read_event
from onward.store.profiles import Profiles
from onward.store.records import ProfileEvent
from onward.store.writer import Writer

_TOGETHER = 2000


@contextmanager
def _profiles(store_url: str, *, make: bool = False) -> Iterator[Profiles]:
    with open_store(store_url, make=make) as store:
        writer = Writer(store)
        try:
            yield Profiles(store, writer, note_erasure=note_erasure)
        finally:
            writer.close()


def export(entity: str, store_url: str, *, tenant: str) -> None:
    """All that the store keeps of an entity in the clear, as one line of JSON. Raises `NotFound` for nobody known."""
    check_entity(entity, where="ENTITY")
    with _profiles(store_url) as profiles:
        found = profiles.export(tenant, entity)
    if not any(found[part] for part in ("key_id", "events", "conversations", "recordings")):
        raise NotFound("nothing is known of this entity", where=entity)
    print_json(found)


def erase(entity: str, store_url: str, *, tenant: str, by: str, sure: bool, as_json: bool) -> None:
    """Erase an entity: what is sealed of it, too, can never be read again. In a terminal, asks first."""
    check_entity(entity, where="ENTITY")
    if not sure and sys.stdin.isatty() and is_for_reading(as_json):
        click.confirm(f"Erase all that is known of {entity}, for good?", abort=True)
    with _profiles(store_url) as profiles:
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
    with _profiles(store_url, make=True) as profiles, file.open("rb") as lines:
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
