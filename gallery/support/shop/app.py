"""The shop over HTTP: signed webhooks do things, GETs tell how they stand. Of Onward it knows the form of webhooks.

POST /actions/{name}        a CloudEvents event, signed (Standard Webhooks form), idempotent by Idempotency-Key
GET  /effects/{key}         200 with the receipt if it happened, 404 if it did not
GET  /customers, /customers/{customer}, /customers/{customer}/orders, /refunds, /cases?queue=, /mails, /events, /health
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gallery.support.shop.database import Books, Refused

_TOLERANCE_S = 300.0
_MAX_BODY_BYTES = 65_536
_TELL_EVERY_S = 0.2


def shop(books: Books, secret: str, *, tell_url: str = "") -> Starlette:
    """The application. `tell_url`: an Onward server that is told what happens to customers, as profile events."""

    async def act(request: Request) -> JSONResponse:
        body = await request.body()
        if len(body) > _MAX_BODY_BYTES:
            return JSONResponse({"error": "too large"}, 413)
        if not is_signed(secret, dict(request.headers), body):
            return JSONResponse({"error": "the signature is wrong, or too old"}, 401)
        try:
            data = json.loads(body)["data"]
            arguments = dict(data["arguments"])
            name, key = str(data["name"]), request.headers["idempotency-key"]
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": "not an action"}, 400)
        if name != request.path_params["name"]:
            return JSONResponse({"error": "the event is about another action"}, 400)
        try:
            return JSONResponse(await run_in_threadpool(books.effect, key, name, arguments))
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 409)
        except (KeyError, ValueError, TypeError):
            return JSONResponse({"error": "wrong arguments"}, 422)

    async def effect(request: Request) -> JSONResponse:
        receipt = await run_in_threadpool(books.receipt, request.path_params["key"])
        return JSONResponse({"error": "never happened"}, 404) if receipt is None else JSONResponse(receipt)

    def reading(query: str, *names: str, one: bool = False) -> Any:
        async def read(request: Request) -> JSONResponse:
            values = [request.path_params.get(name, request.query_params.get(name, "")) for name in names]
            rows = await run_in_threadpool(books.rows, query, *values)
            if one:
                return JSONResponse(rows[0]) if rows else JSONResponse({"error": "unknown"}, 404)
            return JSONResponse(rows)

        return read

    async def events(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(books.events, limit=100_000))

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"ok": True})

    whole = "SELECT * FROM customers JOIN subscriptions USING (customer)"

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ending = threading.Event()
        teller = threading.Thread(target=_tell, args=(books, tell_url, ending), name="shop-teller")
        if tell_url:
            teller.start()
        yield
        ending.set()
        if tell_url:
            await run_in_threadpool(teller.join)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/actions/{name}", act, methods=["POST"]),
            Route("/effects/{key:path}", effect),
            Route("/customers", reading(f"{whole} ORDER BY customer")),
            Route("/customers/{customer}", reading(f"{whole} WHERE customer = ?", "customer", one=True)),
            Route(
                "/customers/{customer}/orders",
                reading("SELECT * FROM orders WHERE customer = ? ORDER BY at_s DESC", "customer"),
            ),
            Route("/refunds", reading("SELECT * FROM refunds ORDER BY refund")),
            Route("/cases", reading("SELECT * FROM cases WHERE queue = ?1 OR ?1 = '' ORDER BY id", "queue")),
            Route("/mails", reading("SELECT * FROM mails ORDER BY id")),
            Route("/events", events),
            Route("/health", health),
        ],
    )


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether `webhook-signature` is the HMAC-SHA256 of ID.TIMESTAMP.BODY under the secret, and recent."""
    message, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not stamp.isdecimal() or abs(time.time() - int(stamp)) > _TOLERANCE_S:
        return False
    # The effect is kept under the Idempotency-Key: it must be the one that was signed.
    if headers.get("idempotency-key", "") != message:
        return False
    digest = hmac.new(secret.encode(), f"{message}.{stamp}.".encode() + body, hashlib.sha256).digest()
    wanted = f"v1,{base64.b64encode(digest).decode()}"
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(each.encode(), wanted.encode()) for each in given)


def _tell(books: Books, url: str, ending: threading.Event) -> None:
    """Tell the server what happened, in order, again until it has heard; events are idempotent by their ids."""
    while not ending.wait(_TELL_EVERY_S):
        for entry in books.events(untold=True, limit=50):
            request = urllib.request.Request(
                f"{url}/profiles/{entry['customer']}/events",
                json.dumps([entry["event"]]).encode(),
                {"content-type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=5):
                    pass
            except OSError:
                break
            books.mark_told([entry["row"]])
