"""Two endpoints are asked the same, in an order that favours neither, and what they say is compared."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onward.errors import BeyondBounds, SourceUnreachable, UsageError
from onward.runners.endpoints.comparing import Settings, compare
from onward.runners.endpoints.endpoint import Endpoint
from onward.runners.endpoints.report import Bounds, Comparison

Answer = Callable[[Any], Any]


@contextmanager
def app(*routes: Route) -> Iterator[str]:
    """A server of one's own, as people have them: Starlette on uvicorn. Its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=list(routes)), log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def json_route(path: str, answer: Answer) -> Route:
    async def endpoint(request: Request) -> Response:
        made = answer(await request.json())
        return made if isinstance(made, Response) else JSONResponse(made)

    return Route(path, endpoint, methods=["POST"])


def plus_one(body: Any) -> Any:
    return {"predictions": [{"value": body["x"] + 1.0}], "took_ms": 3}


def v2_plus(addend: float) -> tuple[Route, Route]:
    async def metadata(request: Request) -> Response:
        return JSONResponse({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]})

    def infer(body: Any) -> Any:
        (x,) = body["inputs"]
        assert x["datatype"] == "FP32"
        data = [value + addend for value in x["data"]]
        return {"outputs": [{"name": "y", "datatype": "FP32", "shape": x["shape"], "data": data}]}

    return Route("/v2/models/m", metadata), json_route("/v2/models/m/infer", infer)


def compared(folder: Path, old: str, new: str, items: list[Any], seconds: float = 0.0, **settings: Any) -> Comparison:
    file = folder / "requests.jsonl"
    file.write_text("\n".join(map(json.dumps, items)))
    bounds = settings.pop("bounds", Bounds(tolerance=1e-5))
    outputs = settings.get("outputs", {})
    made = Settings(requests=file, bounds=bounds, seconds=seconds, timeout_s=5, **settings)
    return compare(Endpoint.at("old", old), Endpoint.at("new", new, outputs=outputs), made, progress=lambda _: None)


ITEMS = [{"x": float(value)} for value in range(6)]


def test_a_plain_endpoint_and_a_v2_endpoint_agree_by_the_places_that_are_named(tmp_path: Path) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(app(json_route("/predictions/m", plus_one)))
        new = stack.enter_context(app(*v2_plus(1.000001)))
        found = compared(
            tmp_path, f"{old}/predictions/m", f"{new}/v2/models/m/infer", ITEMS, seconds=0.5,
            outputs={"predictions[0].value": "y"}, together=2, pids=(os.getpid(), None), prices_per_hour=(None, 3.6),
        )  # fmt: skip
    agreement = found.agreement
    assert (agreement.requests, agreement.within_tolerance, agreement.differing) == (6, 6, 0)
    assert 1e-7 < agreement.largest_difference <= 1e-5
    assert (found.old.form, found.new.form) == ("plain", "v2")
    for side in (found.old, found.new):
        assert side.requests > 10 and not side.failures and len(side.p99_ms_rounds) == 5
        assert 0 < side.p50_ms <= side.p95_ms <= side.p99_ms
    assert found.old.cpu_s_per_1000 and found.old.cpu_s_per_1000 > 0
    assert found.new.cost_per_million == pytest.approx(1000 / found.new.per_s, rel=1e-3)


def test_what_differs_is_told_with_line_place_and_size(tmp_path: Path) -> None:
    def off_at_three(body: Any) -> Any:
        return {"predictions": [{"value": body["x"] + (1.5 if body["x"] == 3 else 1.0)}], "took_ms": 4}

    with app(json_route("/old", plus_one), json_route("/new", off_at_three)) as url:
        found = compared(tmp_path, f"{url}/old", f"{url}/new", ITEMS, ignored=["took_ms"])
        assert (found.agreement.equal, found.agreement.differing, found.agreement.failed) == (5, 1, 0)
        (one,) = found.agreement.first
        assert (one.line, one.where) == (4, ".predictions[0].value: 4.0 and 4.5")
        assert one.difference == pytest.approx(0.125)
        assert found.beyond
        assert compared(tmp_path, f"{url}/old", f"{url}/new", ITEMS).agreement.differing == 6  # by took_ms


def in_turn(*statuses: int) -> Answer:
    return lambda body: Response(status_code=statuses[int(body["x"])], content=b"1")


def test_refusals_agree_failures_do_not_and_redirects_are_not_followed(tmp_path: Path) -> None:
    pairs = [
        (200, 200), (400, 400), (413, 413), (415, 415), (422, 422), (200, 307), (400, 422), (404, 400),
        *((status, status) for status in (401, 403, 404, 405, 408, 429)),
    ]  # fmt: skip
    olds, news = zip(*pairs, strict=True)
    with app(json_route("/old", in_turn(*olds)), json_route("/new", in_turn(*news))) as url:
        items = [{"x": number} for number in range(len(pairs))]
        found = compared(tmp_path, f"{url}/old", f"{url}/new", items).agreement
    assert (found.equal, found.refused_by_both, found.failed) == (1, 4, 9)
    assert "status 307" in found.first[0].where
    assert [one.line for one in found.first] == list(range(6, 15))


@pytest.mark.parametrize("status", [400, 404])
def test_nothing_is_within_bounds_where_nothing_was_answered(tmp_path: Path, status: int) -> None:
    with app(json_route("/old", in_turn(status)), json_route("/new", in_turn(status))) as url:
        found = compared(tmp_path, f"{url}/old", f"{url}/new", [{"x": 0}], bounds=Bounds(tolerance=0, agreement=0.0))
    assert found.beyond == ["no request was answered by both"]
    with pytest.raises(BeyondBounds):
        found.check()


def test_neither_side_is_always_asked_first(tmp_path: Path) -> None:
    order: list[str] = []

    def noting(name: str) -> Answer:
        return lambda body: order.append(name)

    with app(json_route("/old", noting("old")), json_route("/new", noting("new"))) as url:
        compared(tmp_path, f"{url}/old", f"{url}/new", [{"x": n} for n in range(40)], together=1)
    first = order[::2]
    assert len(order) == 80 and 10 <= first.count("old") <= 30


def test_nobody_waits_for_a_slow_side_while_the_other_is_measured(tmp_path: Path) -> None:
    def slow(body: Any) -> int:
        time.sleep(0.01)
        return 1

    with app(json_route("/old", slow), json_route("/new", lambda body: 1)) as url:
        found = compared(tmp_path, f"{url}/old", f"{url}/new", ITEMS, seconds=0.6, together=1,
                         bounds=Bounds(tolerance=0, p99_ratio=1.0))  # fmt: skip
    assert found.old.p50_ms > 10 and found.new.p50_ms < 8
    assert found.new.per_s > found.old.per_s
    assert not found.beyond


def test_what_cannot_be_asked_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    with app(json_route("/old", plus_one)) as url:
        with pytest.raises(UsageError, match="which path"):
            compared(tmp_path, url, f"{url}/old", ITEMS)
        with pytest.raises(SourceUnreachable, match="metadata"):
            compared(tmp_path, f"{url}/old", f"{url}/v2/models/gone/infer", ITEMS)
        with pytest.raises(UsageError, match="no such process"):
            compared(tmp_path, f"{url}/old", f"{url}/old", ITEMS, pids=(2**30, None))
