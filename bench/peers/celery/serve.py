"""A route that enqueues the action's task and answers once the broker has it: uvicorn, Starlette's threads."""

from __future__ import annotations

import asyncio
import json
import os

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tasks import hold

TARGET = os.environ["TARGET"]


async def take(request: Request) -> JSONResponse:
    """Enqueue; the answer tells the task's id."""
    sent = json.loads(await request.body())
    arguments = {"amount": sent["x"][1], "reason": "large"}
    result = await run_in_threadpool(hold.delay, TARGET, arguments)
    return JSONResponse({"task_id": result.id})


async def ready(_: Request) -> JSONResponse:
    """For the bench: the process listens."""
    await asyncio.sleep(0)
    return JSONResponse({})


app = Starlette(routes=[Route("/act", take, methods=["POST"]), Route("/ready", ready)])
