"""`/profiles/{entity}`: events come in, features are read, everything about an entity is deleted. Plain Starlette.

Knows nothing of stores or packages; a caller sees the entities of its own tenant only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from onward.errors import Cancelled, InputError, MalformedBody, ModelNotFound, TooLarge
from onward.package.features import is_kind
from onward.prepare.profile import Features, check_entity
from onward.runners.serve.caller import caller_of
from onward.store.new_events import read_time
from onward.store.profiles import Profiles

MAX_BODY_BYTES = 8 << 20
MAX_EVENTS = 10_000
_FEW = 50
"""So many events are checked on the loop, more in a thread."""
MOST_SHOWN = 1000

FeaturesByPackage = Callable[[], Mapping[str, Features]]
"""The features of each package that is served, by its name."""


def routes(profiles: Profiles, features: FeaturesByPackage) -> list[Route]:
    """The routes over the profiles of one store."""
    endpoints = ProfileEndpoints(profiles, features)
    return [
        Route("/profiles/{entity}/events", endpoints.add_events, methods=["POST"]),
        Route("/profiles/{entity}/events", endpoints.events, methods=["GET"]),
        Route("/profiles/{entity}", endpoints.read, methods=["GET"]),
        Route("/profiles/{entity}", endpoints.erase, methods=["DELETE"]),
    ]


class ProfileEndpoints:
    """The handlers; each raises `OnwardError`, which the application answers."""

    def __init__(self, profiles: Profiles, features: FeaturesByPackage) -> None:
        self._profiles = profiles
        self._features = features

    async def add_events(self, request: Request) -> Response:
        """Take one event or a list of them; answers once they are durable and every read sees them."""
        tenant, entity = _whose(request)
        found = await _json(request)
        events = found if isinstance(found, list) else [found]
        if len(events) > MAX_EVENTS:
            raise TooLarge("too many events", expected=f"at most {MAX_EVENTS} at once", found=str(len(events)))
        if len(events) <= _FEW:
            written = self._profiles.ingest(tenant, entity, events)
        else:
            written = await run_in_threadpool(self._profiles.ingest, tenant, entity, events)
        ingested = await asyncio.wrap_future(written)
        return _answer({"accepted": ingested.accepted, "duplicate": ingested.duplicate})

    async def events(self, request: Request) -> Response:
        """The latest events, newest first: `?kind=`, `?before=` (a time), `?limit=` (100, at most 1000)."""
        tenant, entity = _whose(request)
        query = request.query_params
        kinds = tuple(query.getlist("kind"))
        for kind in kinds:
            if not is_kind(kind):
                raise InputError("not a kind of event", where="kind", found=ascii(kind)[:60])
        limit = query.get("limit", "100")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MOST_SHOWN:
            raise InputError("not a limit", where="limit", expected=f"1 to {MOST_SHOWN}", found=ascii(limit)[:60])
        before_s = _time(request, "before")
        events = await run_in_threadpool(
            self._profiles.events, tenant, entity, before_s=before_s, kinds=kinds, limit=int(limit)
        )
        return _answer({"entity": entity, "events": events})

    async def read(self, request: Request) -> Response:
        """The features as every package that has some sees them now: `?as_of=`, `?known=` (times), `?package=`."""
        tenant, entity = _whose(request)
        packages = self._features()
        wanted = request.query_params.get("package")
        if wanted is not None:
            if wanted not in packages:
                expected = f"one of {', '.join(sorted(packages))}" if packages else "a package with a profile"
                raise ModelNotFound(where="package", expected=expected, found=ascii(wanted)[:60])
            packages = {wanted: packages[wanted]}
        as_of_s, known_s = _time(request, "as_of"), _time(request, "known")
        as_of_s = time.time() if as_of_s is None else as_of_s

        def read() -> dict[str, Any]:
            return {
                name: self._profiles.read(tenant, entity, features, as_of_s=as_of_s, known_s=known_s)
                for name, features in packages.items()
            }

        return _answer({"entity": entity, "as_of": as_of_s, "profiles": await run_in_threadpool(read)})

    async def erase(self, request: Request) -> Response:
        """Delete all traces of the entity; answers once no byte of them is left."""
        tenant, entity = _whose(request)
        erased = await run_in_threadpool(self._profiles.erase, tenant, entity, by="api")
        counts = {name: getattr(erased, name) for name in ("keys", "events", "conversations", "recordings")}
        return _answer({"erased": counts})


def _whose(request: Request) -> tuple[str, str]:
    caller = caller_of(dict(request.headers.raw))
    return caller.tenant, check_entity(request.path_params["entity"], where="entity")


def _time(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value: float | str = float(text)
    except ValueError:
        value = text
    return read_time(value, where=name)


async def _json(request: Request) -> Any:
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise TooLarge(where="body", expected=f"at most {MAX_BODY_BYTES} bytes", found="more")
    except ClientDisconnect:
        raise Cancelled from None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedBody(str(error), expected="an event, or a list of events, as JSON") from None


def _answer(body: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
