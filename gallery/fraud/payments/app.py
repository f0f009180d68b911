"""The payment service over HTTP: signed webhooks do things, GETs tell how they stand. Knows the form of webhooks only.

POST /actions/{name}        a CloudEvents event, signed (Standard Webhooks form), idempotent by Idempotency-Key
GET  /effects/{key}         200 with the receipt if it happened, 404 if it did not
GET  /holds?card=, /cases?card=, /effects, /health
"""

from __future__ import annotations

import json
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gallery.fraud.payments.ledger import Ledger, Refused
from gallery.support.shop.app import is_signed

_MAX_BODY_BYTES = 65_536


def payments(ledger: Ledger, secret: str) -> Starlette:
    """The application."""

    async def act(request: Request) -> JSONResponse:
        body = await request.body()
        if len(body) > _MAX_BODY_BYTES:
            return JSONResponse({"error": "too large"}, 413)
        if not is_signed(secret, dict(request.headers), body):
            return JSONResponse({"error": "the signature is wrong, or too old"}, 401)
        try:
            data = json.loads(body)["data"]
            name, arguments, decision = str(data["name"]), dict(data["arguments"]), str(data["decision_id"])
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": "not an action"}, 400)
        if name != request.path_params["name"]:
            return JSONResponse({"error": "the event is about another action"}, 400)
        key = request.headers["idempotency-key"]
        try:
            return JSONResponse(await run_in_threadpool(ledger.effect, key, name, arguments, decision=decision))
        except Refused as refused:
            return JSONResponse({"error": str(refused)}, 409)
        except (KeyError, ValueError, TypeError):
            return JSONResponse({"error": "wrong arguments"}, 422)

    async def effect(request: Request) -> JSONResponse:
        receipt = await run_in_threadpool(ledger.receipt, request.path_params["key"])
        return JSONResponse({"error": "never happened"}, 404) if receipt is None else JSONResponse(receipt)

    def reading(query: str, *names: str) -> Any:
        async def read(request: Request) -> JSONResponse:
            values = [request.query_params.get(name, "") for name in names]
            return JSONResponse(await run_in_threadpool(ledger.rows, query, *values))

        return read

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"ok": True})

    of_card = "WHERE card = ?1 OR ?1 = '' ORDER BY id"
    return Starlette(
        routes=[
            Route("/actions/{name}", act, methods=["POST"]),
            Route("/effects", reading("SELECT * FROM effects ORDER BY rowid")),
            Route("/effects/{key:path}", effect),
            Route("/holds", reading(f"SELECT * FROM holds {of_card}", "card")),
            Route("/cases", reading(f"SELECT * FROM cases {of_card}", "card")),
            Route("/health", health),
        ]
    )
