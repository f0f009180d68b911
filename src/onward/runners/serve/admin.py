"""The admin port, loopback only: what is served, what failed and why; what was decided, what is to be done about it.

Changes need JSON and the name of who makes them. Loading and unloading need neither: clients of Triton send none. A
page of another site can reach this port through a browser on this machine: what does not name this machine as the host
is refused, and so is what a browser sends for a page without having asked, be it a script's or a form's.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from onward.errors import MalformedBody, NotFound, OnwardError, TooLarge, UnsupportedMedia
from onward.runners.serve.app import error_response, on_http_error, on_onward_error
from onward.runners.serve.explanation import explanation
from onward.runners.serve.models import AnyServed, Models
from onward.runners.serve.policies import Policies
from onward.runners.serve.repository_routes import RepositoryEndpoints
from onward.runners.serve.staged import StagedModel
from onward.runners.serve.statistics import statistics_routes
from onward.runners.serve.streams import StreamedModel

if TYPE_CHECKING:  # imported where a package has a policy, and then only used here
    from onward.runners.serve.decisions import Decisions
    from onward.store.records import Action
    from onward.store.store import Transaction

_BODY_BYTES = 16 << 10
_MOST = 1000
_FIELDS = b"application/x-www-form-urlencoded"
_FORMS = (b"multipart/form-data", b"text/plain")
_HERE = frozenset({"127.0.0.1", "localhost", "[::1]"})
T = TypeVar("T")
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class Signed(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who makes a change, and why."""

    by: str
    note: str = ""


class Answered(Signed, kw_only=True, forbid_unknown_fields=True):
    """A person's yes or no to exactly this payload."""

    payload_digest: str
    granted: bool


class Turned(Signed, kw_only=True, forbid_unknown_fields=True):
    """The kill switch: of everything, of one tenant, or of one action."""

    on: bool
    tenant: str = ""
    action: str = ""


class AdminEndpoints:
    """The admin port's routes."""

    def __init__(self, models: Models, policies: Policies | None) -> None:
        self._models = models
        self._policies = policies

    async def index(self, request: Request) -> Response:
        """Every version with its state; the reason of a failure is told here and in the log only."""
        served = [
            {"name": one.id.name, "version": one.id.version, "digest": one.id.digest, "state": "ready"} | _load_of(one)
            for one in self._models.all()
        ]
        failed = [
            {"name": name, "version": version, "state": "failed", "code": error.code, "reason": str(error)}
            for (name, version), error in self._models.failed.items()
        ]
        return JSONResponse({"ready": self._models.ready, "models": [*served, *failed]})

    async def request(self, request: Request) -> Response:
        """What became of one of the last requests: where its time went, with whom it ran, what was decided on it."""
        return JSONResponse(await explanation(request.path_params["id"], self._policies))

    async def approvals(self, request: Request) -> Response:
        """What waits for a person, with each payload and its digest."""
        from onward.act.approvals import waiting
        from onward.runners.serve import statements

        decisions, tenant, limit = self._decisions(), request.query_params.get("tenant"), _limit(request)
        asked = await decisions.write(
            lambda tx: waiting(tx, tenant, time.time(), keys=decisions.keys, limit=limit)
        )  # fmt: skip
        return JSONResponse({"approvals": [statements.request(one) for one in asked]})

    async def answer(self, request: Request) -> Response:
        """A person's yes or no."""
        from onward.act.approvals import decide
        from onward.runners.serve import statements

        said = await _said(request, Answered)
        approval_id = request.path_params["id"]

        def work(tx: Transaction) -> dict[str, Any]:
            asked = tx.approval(approval_id)
            if asked is None:
                raise NotFound("no such approval", where=approval_id[:80])
            decided = decide(
                tx, asked.tenant, approval_id, payload_digest=said.payload_digest, granted=said.granted, by=said.by,
                now_s=time.time(), note=said.note,
            )  # fmt: skip
            return statements.approval(decided)

        decisions = self._decisions()
        told = await decisions.write(work)
        decisions.wake_relay()
        return JSONResponse(told)

    async def actions(self, request: Request) -> Response:
        """Actions by state; without one, all that are not at an end."""
        from onward.runners.serve import statements
        from onward.store.records import ActionState

        ends = (ActionState.DONE, ActionState.REFUSED)
        asked = request.query_params.getlist("state")
        known = {state.value: state for state in ActionState}
        for word in asked:
            if word not in known:
                raise MalformedBody(where="state", expected=f"one of {', '.join(known)}", found=word[:40])
        states = [known[word] for word in asked] or [state for state in ActionState if state not in ends]
        tenant, limit = request.query_params.get("tenant"), _limit(request)
        found = await self._decisions().read(
            lambda reader: [one for state in states for one in reader.actions(state, tenant=tenant, limit=limit)]
        )
        return JSONResponse({"actions": [statements.action_line(one) for one in found]})

    async def action(self, request: Request) -> Response:
        """One action: its payload, its approvals and all that happened to it."""
        from onward.runners.serve import statements

        decisions, action_id = self._decisions(), request.path_params["id"]

        def work(tx: Transaction) -> dict[str, Any]:
            found = tx.action(action_id)
            if found is None:
                raise NotFound("no such action", where=action_id[:80])
            return statements.action(tx, decisions.keys, found)

        return JSONResponse(await decisions.write(work))

    async def change(self, request: Request) -> Response:
        """Retry, discard or confirm an action, or undo it."""
        from onward.act import person
        from onward.runners.serve import statements

        verb, action_id = request.path_params["verb"], request.path_params["id"]
        said = await _said(request, Signed)
        decisions = self._decisions()
        named: dict[str, Any] = {"by": said.by, "now_s": time.time(), "note": said.note}
        if verb == "compensate":
            named |= {"targets": decisions.targets, "keys": decisions.keys}
        verbs: dict[str, Callable[..., Action]] = {
            "retry": person.retry, "discard": person.discard, "confirm": person.confirm,
            "compensate": person.compensate,
        }  # fmt: skip
        if verb not in verbs:
            raise NotFound(where=request.url.path)

        def work(tx: Transaction) -> Action:
            if tx.action(action_id) is None:
                raise NotFound("no such action", where=action_id[:80])
            return verbs[verb](tx, None, action_id, **named)

        changed = await decisions.write(work)
        decisions.wake_relay()
        return JSONResponse(statements.action_line(changed))

    async def audit(self, request: Request) -> Response:
        """Entries of the audit log after a sequence number; without one, the last of them. At most 16 MiB at once."""
        from onward.runners.serve import statements

        limit, after = _limit(request), _whole(request, "after", -1)

        def read(reader: Any) -> list[dict[str, Any]]:
            last = reader.last_audit()
            start = after if after >= 0 else max((last.sequence if last else 0) - limit, 0)
            lines = [statements.audit_line(entry) for entry in reader.audit_entries(after=start, limit=limit)]
            return statements.audit_page(lines, newest=after < 0)

        return JSONResponse({"entries": await self._decisions().read(read)})

    async def switches(self, request: Request) -> Response:
        """The kill switches that were ever turned."""
        from onward.runners.serve import statements

        turned = await self._decisions().read(lambda reader: list(reader.switches().values()))
        return JSONResponse({"switches": statements.switches(turned)})

    async def turn(self, request: Request) -> Response:
        """Turn the kill switch."""
        from onward.act import kill
        from onward.runners.serve import statements

        said = await _said(request, Turned)
        if said.tenant and said.action:
            raise MalformedBody(where="action", expected="a tenant or an action, not both", found="both")
        decisions = self._decisions()
        switch = await decisions.write(
            lambda tx: kill.turn(
                tx, on=said.on, by=said.by, at_s=time.time(), tenant=said.tenant, action=said.action, note=said.note
            )
        )
        decisions.wake_relay()
        return JSONResponse(statements.switches([switch])[0])

    def _decisions(self) -> Decisions:
        if self._policies is None:
            raise NotFound("no package with a policy is served")
        return self._policies.decisions


async def _said(request: Request, kind: type[T]) -> T:
    """The JSON body of a change. Raises `UnsupportedMedia`, `TooLarge` or `MalformedBody`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMedia(where="Content-Type", expected="application/json", found=media_type[:40] or "none")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_BYTES:
            raise TooLarge(where="body", expected=f"at most {_BODY_BYTES} bytes", found="more")
    try:
        said = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(where="body", expected=f"JSON with {', '.join(kind.__struct_fields__)}",  # type: ignore[attr-defined]
                            found=str(error)) from None  # fmt: skip
    if isinstance(said, Signed) and not said.by.strip():
        raise MalformedBody(where="by", expected="the name of who makes the change", found="nothing")
    return said


def _limit(request: Request) -> int:
    return min(max(_whole(request, "limit", 100), 1), _MOST)


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 15:
        raise MalformedBody(where=name, expected="a whole number", found=text[:40])
    return int(text)


class OnlyHere:
    """Refuses requests for another host than this machine: a name that somebody pointed here is none of ours.

    And changes that a browser makes for a page of another origin without having asked: JSON alone makes it ask, and it
    is not answered. Browsers say where a page comes from; programs do not, and need not say JSON. Forms are refused
    where a browser does not say so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1")
            name = host[: host.rfind(":")] if ":" in host.rpartition("]")[2] else host
            wrong: OnwardError | None = None
            if name.lower() not in _HERE:
                wrong = MalformedBody(where="Host", expected="127.0.0.1 or localhost", found=name[:80])
            elif scope["method"] not in ("GET", "HEAD") and _may_be_a_page(headers):
                wrong = UnsupportedMedia(where="Content-Type", expected="application/json", found="a page's request")
            if wrong is not None:
                await error_response(wrong)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _may_be_a_page(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser may have sent this for a page of another origin, which it would not have had to ask for."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"application/json":
        return False
    if b"origin" in headers or b"sec-fetch-site" in headers:
        return True
    if kind == _FIELDS:  # curl's type, too: but a form's fields are never the JSON that is read here, only an empty one
        return headers.get(b"content-length", b"0") == b"0"
    return kind in _FORMS


def _load_of(served: AnyServed) -> dict[str, Any]:
    """How a served version runs, and what waits for it."""
    if isinstance(served, StagedModel):
        return {"stages": [stage.name for stage in served.manifest.stages], "queued_rows": served.items}
    if isinstance(served, StreamedModel):
        metrics = served.stream_metrics
        return {"slots": served.manifest.execute.slots, "running": metrics.running,
                "queued_tokens": metrics.queued_tokens}  # fmt: skip
    return {
        "inline": served.lane.inline, "batch_s": served.speed.batch_s, "prepare_s": served.speed.prepare_s,
        "queued_rows": served.lane.scheduler.queued_rows,
    }  # fmt: skip


def make_admin_app(models: Models, policies: Policies | None = None, *, metrics: Endpoint | None = None) -> Starlette:
    """The ASGI application of the admin port.

    `metrics` tells this process's own: several may share the port for inference, and each has its admin port.
    """
    on = AdminEndpoints(models, policies)
    return Starlette(
        routes=[
            *([Route("/metrics", metrics, methods=["GET"])] if metrics is not None else []),
            Route("/admin/models", on.index, methods=["GET"]),
            Route("/admin/requests/{id}", on.request, methods=["GET"]),
            Route("/admin/approvals", on.approvals, methods=["GET"]),
            Route("/admin/approvals/{id}", on.answer, methods=["POST"]),
            Route("/admin/actions", on.actions, methods=["GET"]),
            Route("/admin/actions/{id}", on.action, methods=["GET"]),
            Route("/admin/actions/{id}/{verb}", on.change, methods=["POST"]),
            Route("/admin/audit", on.audit, methods=["GET"]),
            Route("/admin/kill-switch", on.switches, methods=["GET"]),
            Route("/admin/kill-switch", on.turn, methods=["POST"]),
            *RepositoryEndpoints(models).routes(),
            *statistics_routes(models),
        ],
        middleware=[Middleware(OnlyHere)],
        exception_handlers={OnwardError: on_onward_error, HTTPException: on_http_error},
    )
