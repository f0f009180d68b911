"""The supervisor's admin port: the workers as one server.

What concerns all is asked of all, or told to all; the rest (the store's approvals, actions and log) any worker answers.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onward.errors import OnwardError, Unavailable
from onward.runners.serve.admin import OnlyHere
from onward.runners.serve.app import on_http_error, on_onward_error
from onward.runners.serve.statistics import added
from onward.runners.serve.workers.asking import ask_of, response_of
from onward.runners.serve.workers.crew import Crew, Member
from onward.runners.serve.workers.frames import Ask, Told
from onward.runners.serve.workers.rollout import Rollout
from onward.runners.serve.workers.totals import Totals

_ANSWER_S = 30.0
_STATISTICS = ("/v2/models/stats", "/v2/models/{name}/stats", "/v2/models/{name}/versions/{version}/stats")
_WAITING = ("queued_rows", "queued_tokens", "running")


class WorkersAdmin:
    """The endpoints."""

    def __init__(self, crew: Crew, rollout: Rollout, totals: Totals) -> None:
        self._crew = crew
        self._rollout = rollout
        self._totals = totals

    async def metrics(self, request: Request) -> Response:
        """The sum over all workers, in Prometheus' text format."""
        return Response(await self._totals.page(self._crew), media_type=CONTENT_TYPE_LATEST)

    async def workers(self, request: Request) -> Response:
        """Each worker: its process, its state, and its memory, with its share of what it has in common with others."""
        members = [one for one in self._crew.members if one is not None]
        return JSONResponse(
            {"ready": self._crew.ready, "replaced": self._crew.replaced, "workers": [_worker(one) for one in members]}
        )

    async def models(self, request: Request) -> Response:
        """Every version once, with the workers that serve it or could not load it."""
        ask = await ask_of(request)
        merged: dict[tuple[Any, ...], dict[str, Any]] = {}
        for member, told in await self._crew.ask_all(ask, timeout_s=_ANSWER_S):
            assert isinstance(told, Told)
            for version in msgspec.json.decode(told.body)["models"]:
                key = tuple(version.get(name) for name in ("name", "version", "digest", "state", "code"))
                known = merged.setdefault(key, version | {"workers": []} | dict.fromkeys(version.keys() & _WAITING, 0))
                known["workers"].append(member.slot)
                for name in version.keys() & _WAITING:
                    known[name] += version[name]
        return JSONResponse({"ready": self._crew.ready, "models": list(merged.values())})

    async def command(self, request: Request) -> Response:
        """Load or unload a model, in every worker."""
        return response_of(await self._rollout.command(self._crew, await ask_of(request)))

    async def statistics(self, request: Request) -> Response:
        """V2 statistics, the sum over all workers there are now."""
        return response_of(await asked_of_all(self._crew, await ask_of(request)))

    async def whoever_knows(self, request: Request) -> Response:
        """What one worker knows and the others do not."""
        ask = await ask_of(request)
        answers = [told for _, told in await self._crew.ask_all(ask, timeout_s=_ANSWER_S) if isinstance(told, Told)]
        if not answers:
            raise Unavailable("no worker can be asked yet")
        return response_of(next((told for told in answers if told.status != HTTPStatus.NOT_FOUND), answers[0]))

    async def any(self, request: Request) -> Response:
        """What every worker would answer alike. One that dies of it is not asked again: it may have been done."""
        return response_of(await self._ask_one(await ask_of(request)))

    async def _ask_one(self, ask: Ask) -> Told:
        members = self._crew.up()
        if not members:
            raise Unavailable("no worker can be asked yet")
        member = next((one for one in members if one.is_fit), members[0])
        told = await self._crew.ask(member, ask, timeout_s=_ANSWER_S)
        assert isinstance(told, Told)
        return told


async def asked_of_all(crew: Crew, ask: Ask) -> Told:
    """The statistics of all workers as one. Raises `Unavailable`."""
    answers = [told for _, told in await crew.ask_all(ask, timeout_s=_ANSWER_S) if isinstance(told, Told)]
    if not answers:
        raise Unavailable("no worker can be asked yet")
    good = [told for told in answers if told.status == HTTPStatus.OK]
    if not good:
        return answers[0]
    body = msgspec.json.encode(added(msgspec.json.decode(told.body) for told in good))
    return Told(status=HTTPStatus.OK, headers=good[0].headers, body=body)


def _worker(member: Member) -> dict[str, Any]:
    state = "draining" if member.state.stopping else "ready" if member.is_fit else "loading"
    return {
        "slot": member.slot, "pid": member.process.pid, "state": state,
        "age_s": round(time.monotonic() - member.started_s, 3), "accepts": list(member.listens),
        "pss_bytes": _pss_bytes(member.process.pid),
    }  # fmt: skip


def _pss_bytes(pid: int) -> int | None:
    """The process's own memory and its share of what it has in common with others; None where it cannot be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:  # noqa: PTH123
            lines = [line.split() for line in file if line.startswith("Pss:")]
    except OSError:
        return None
    return int(lines[0][1]) << 10 if lines else None


def make_workers_admin(crew: Crew, rollout: Rollout, totals: Totals) -> Starlette:
    """The ASGI application of the admin port."""
    on = WorkersAdmin(crew, rollout, totals)
    everything = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    return Starlette(
        routes=[
            Route("/metrics", on.metrics, methods=["GET"]),
            Route("/admin/workers", on.workers, methods=["GET"]),
            Route("/admin/models", on.models, methods=["GET"]),
            Route("/v2/repository/models/{name}/load", on.command, methods=["POST"]),
            Route("/v2/repository/models/{name}/unload", on.command, methods=["POST"]),
            *(Route(path, on.statistics, methods=["GET"]) for path in _STATISTICS),
            Route("/admin/requests/{id}", on.whoever_knows, methods=["GET"]),
            Route("/{path:path}", on.any, methods=everything),
        ],
        middleware=[Middleware(OnlyHere)],
        exception_handlers={OnwardError: on_onward_error, HTTPException: on_http_error},
    )
