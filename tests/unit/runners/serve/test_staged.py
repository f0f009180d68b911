"""A served package of stages: stages are asked where they are served, and what is missing is named."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from onward.errors import DeadlineExceeded, InputError, Unavailable
from onward.execute.scheduler import HIGH, LOW, NORMAL
from onward.flow import STAGES_MS
from onward.package.repository import Repository
from onward.runners.serve.exchange import Exchange, Headers, Route
from onward.runners.serve.lane import Lane
from onward.runners.serve.models import AnyServed, Models
from onward.runners.serve.staged import StagedModel
from onward.testing import EchoBackend, tiny_package
from onward.types import CancelToken, Event, Result
from tests.packages import chain_package, reader_package, sleeper_package, staged_packages

X = [1.0, 2.0, 3.0]


class Asking(Exchange):
    """An exchange without a connection."""

    __slots__ = ("answer", "answered")

    def __init__(self, route: Route, body: bytes, headers: Headers | None = None, query: bytes = b"") -> None:
        super().__init__(cast(Any, None), route, headers or {}, query, True)
        self.body = body
        self.answer: tuple[int, dict[str, Any], Headers] | None = None
        self.answered = asyncio.Event()

    def respond(self, body: bytes, content_type: bytes = b"application/json", *, status: int = 200,
                headers: Headers | None = None) -> None:  # fmt: skip
        self.response_complete = True
        self.answer = (status, json.loads(body), headers or {})
        self.answered.set()


@pytest.fixture
async def pool() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=2) as executor:
        yield executor


async def scanned(root: Path, pool: ThreadPoolExecutor) -> Models:
    models = Models(Repository(root), pool)
    await models.scan()
    return models


async def asked(
    models: Models, item: Any, headers: Headers | None = None, query: bytes = b""
) -> tuple[int, dict[str, Any], Headers]:
    exchange = Asking(models.routes[b"/models/chain"], json.dumps(item).encode(), headers, query)
    exchange.start()
    await asyncio.wait_for(exchange.answered.wait(), 10)
    assert exchange.answer is not None
    return exchange.answer


def staged(models: Models) -> StagedModel:
    served = models.get("chain")
    assert isinstance(served, StagedModel)
    return served


async def test_a_request_goes_through_the_lanes_of_the_stages(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    staged_packages(tmp_path)
    models = await scanned(tmp_path, pool)
    assert models.ready and models.names() == ["chain", "double", "plus"]
    status, body, headers = await asked(models, {"x": X, "way": "long"}, query=b"outputs=stages_ms,doubled")
    assert status == 200 and body["answer"]["y"] == [12.0, 14.0, 16.0] and body["answer"]["doubled"] == [2.0, 4.0, 6.0]
    assert set(body["answer"][STAGES_MS]) == {"double", "far"} and body["package"] == "chain"
    assert headers[b"server-timing"].startswith(b"double;dur=")
    assert models.get("plus").metrics.rows == 1 and models.get("double").metrics.rows == 1
    assert staged(models).metrics.rows == 1
    await models.close()


async def test_items_share_batches_of_their_stages(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    staged_packages(tmp_path)
    models = await scanned(tmp_path, pool)
    items = [{"x": [float(n)] * 3, "way": "long" if n % 2 else "short"} for n in range(40)]
    status, body, _ = await asked(models, items)
    assert status == 200
    assert [one["y"][0] for one in body["answers"]] == [2.0 * n + (10.0 if n % 2 else 0.0) for n in range(40)]
    assert models.get("plus").metrics.rows == 20
    await models.close()


async def test_what_does_not_fit_is_told_by_the_input_of_the_whole(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    staged_packages(tmp_path)
    models = await scanned(tmp_path, pool)
    status, body, _ = await asked(models, {"x": [1.0]})
    assert status == 400 and body["field"] == "x" and body["code"] == "WRONG_SHAPE"
    status, body, _ = await asked(models, [{"x": X}, {"x": X, "wai": "long"}])
    assert status == 400 and body["field"] == "[1] wai"
    with pytest.raises(InputError):
        await staged(models).answer([{"x": "three"}])
    assert staged(models).items == 0
    await models.close()


async def test_tensors_are_refused_with_what_to_use(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    staged_packages(tmp_path)
    models = await scanned(tmp_path, pool)
    exchange = Asking(models.routes[b"/v2/models/chain/infer"], b'{"inputs":[]}')
    exchange.start()
    assert exchange.answer is not None and exchange.answer[0] == 400
    assert "POST /models/chain" in exchange.answer[1]["error"]
    await models.close()


async def test_one_deadline_goes_through_all_stages(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    slow_chain(tmp_path)
    models = await scanned(tmp_path, pool)
    status, body, _ = await asked(models, {"x": [0.3]}, {b"x-onward-timeout-ms": b"200"})
    assert status == 504 and body["code"] == "DEADLINE_EXCEEDED"
    assert models.get("once").metrics.rows == 1 and models.get("again").metrics.rows == 0
    status, _, _ = await asked(models, {"x": [0.01]}, {b"x-onward-timeout-ms": b"5000"})
    assert status == 200
    with pytest.raises(DeadlineExceeded):
        one = staged(models)
        late = one.anyone()
        await one.answer([{"x": [0.0]}], asked=type(late)(request_id=b"r", deadline_s=0.0, caller=late.caller))
    await models.close()


async def test_one_priority_goes_through_all_stages(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged_packages(tmp_path)
    models = await scanned(tmp_path, pool)
    seen: list[int] = []
    submit = Lane.submit

    def spy(lane: Lane, request: Any, now_s: float) -> None:
        seen.append(request.priority)
        submit(lane, request, now_s)

    monkeypatch.setattr(Lane, "submit", spy)
    for value, wanted in ((b"high", HIGH), (b"LOW", LOW), (None, NORMAL)):
        headers = {} if value is None else {b"x-onward-priority": value}
        status, _, _ = await asked(models, {"x": X, "way": "long"}, headers)
        assert status == 200 and seen == [wanted, wanted]
        seen.clear()
    status, body, _ = await asked(models, {"x": X}, {b"x-onward-priority": b"urgent"})
    assert status == 400 and body["field"] == "x-onward-priority"
    await models.close()


async def test_who_leaves_is_followed_by_what_was_asked(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    slow_chain(tmp_path)
    models = await scanned(tmp_path, pool)
    exchange = Asking(models.routes[b"/models/chain"], b'{"x": [0.2]}')
    exchange.start()
    await asyncio.sleep(0.05)
    exchange.abandon()
    begun_s = time.monotonic()
    while staged(models).items:
        await asyncio.sleep(0.005)
    assert time.monotonic() - begun_s < 0.15 and exchange.answer is None
    await asyncio.sleep(0.3)
    assert models.get("again").metrics.rows == 0  # nobody asked the second stage
    await models.close()


async def test_a_package_waits_for_its_stages_and_is_served_once_they_are(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    staged_packages(tmp_path)
    shutil.move(tmp_path / "plus", tmp_path.parent / f"{tmp_path.name}-plus")
    models = await scanned(tmp_path, pool)
    assert not models.ready
    with pytest.raises(Unavailable):
        models.get("chain")
    error = models.failed["chain", "1.0.0"]
    assert 'stage "far"' in str(error) and "plus 1.0.0" in str(error)
    await models.scan()
    assert models.failed["chain", "1.0.0"] is error  # told once
    shutil.move(tmp_path.parent / f"{tmp_path.name}-plus", tmp_path / "plus")
    await models.scan()
    assert models.ready and not models.failed
    assert (await asked(models, {"x": X, "way": "long"}))[0] == 200
    await models.close()


async def test_a_stage_that_is_gone_or_another_package_makes_the_whole_not_ready(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    staged_packages(tmp_path)
    models = await scanned(tmp_path, pool)
    staged(models).check()
    shutil.rmtree(tmp_path / "plus")
    await models.scan()
    with pytest.raises(Unavailable, match='stage "far" of chain'):
        staged(models).check()
    assert (await asked(models, {"x": X}))[0] == 200  # it does not need that stage
    status, body, _ = await asked(models, {"x": X, "way": "long"})
    assert status == 503 and 'stage "far"' in body["error"]
    tiny_package(tmp_path / "plus" / "1.0.0", name="plus", scale=1.0, offset=11.0)
    await models.scan()
    with pytest.raises(Unavailable, match="not what it was packed with"):
        staged(models).check()
    await models.close()


async def test_a_version_that_a_package_was_packed_with_stays_served_besides_the_newest(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    staged_packages(tmp_path)
    models = await scanned(tmp_path, pool)
    tiny_package(tmp_path / "plus" / "1.1.0", name="plus", version="1.1.0", scale=1.0, offset=11.0)
    await models.scan()
    assert models.versions("plus") == ["1.0.0", "1.1.0"]
    assert (await asked(models, {"x": X, "way": "long"}))[1]["answer"]["y"] == [12.0, 14.0, 16.0]
    await models.close()
    later = await scanned(tmp_path, pool)  # a server that starts with both
    assert later.versions("plus") == ["1.0.0", "1.1.0"] and later.ready
    shutil.rmtree(tmp_path / "chain")
    await later.scan()
    await later.scan()
    assert later.versions("plus") == ["1.1.0"]
    await later.close()


async def test_closing_lets_what_is_on_its_way_finish_its_stages(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    slow_chain(tmp_path)
    models = await scanned(tmp_path, pool)
    exchange = Asking(models.routes[b"/models/chain"], b'{"x": [0.1]}')
    exchange.start()
    await asyncio.sleep(0.02)
    await models.close()
    assert exchange.answer is not None and exchange.answer[0] == 200


def slow_chain(repository: Path) -> None:
    """Two stages, each taking as many seconds as `x` says."""
    for name in ("once", "again"):
        sleeper_package(repository / name / "1.0.0", name=name)
    chain_package(repository, SLOW, example=False)


SLOW = """format = 1
[package]
name = "chain"
version = "1.0.0"
[[input]]
name = "x"
datatype = "FP32"
shape = [1]
[[output]]
name = "y"
datatype = "FP32"
shape = [1]
[[stage]]
name = "first"
package = "once"
version = "1.0.0"
inputs = { x = "x" }
[[stage]]
name = "second"
package = "again"
version = "1.0.0"
inputs = { x = "first.y" }
[answer]
y = "second.y"
"""


# --- A stage that streams ---

SPOKEN = """format = 1
[package]
name = "chain"
version = "1.0.0"
[[input]]
name = "text"
datatype = "BYTES"
content = "text"
[[output]]
name = "same"
datatype = "BYTES"
[[stage]]
name = "read"
package = "reader"
version = "1.0.0"
inputs = { text = "text" }
[[stage]]
name = "again"
package = "reader"
version = "1.0.0"
inputs = { text = "read.same" }
[answer]
same = "again.same"
"""


class Echo:
    """A served model that streams the words it is given, from `EchoBackend`, in place of `reader`."""

    def __init__(self, replaced: AnyServed, delay_s: float = 0.0) -> None:
        self.id = replaced.id
        self.package = replaced.pipeline.package
        self.pipeline = self
        self.backend = EchoBackend(delay_s=delay_s)
        self.metrics = replaced.metrics
        self.deadlines_s: list[float] = []
        self.cancelled = 0

    def prepare(self, item: Any) -> Any:
        return item

    def admit(self, prepared: Any, *, deadline_s: float) -> Echoing:
        self.backend.admit(prepared)
        self.deadlines_s.append(deadline_s)
        return Echoing(self, prepared)

    async def close(self) -> None:
        """Nothing to free."""


class Echoing:
    def __init__(self, echo: Echo, item: Any) -> None:
        self.echo, self.token, self.done = echo, CancelToken(), False
        self.events = echo.backend.stream(item, self.token)

    async def __aiter__(self) -> AsyncIterator[Event]:
        text = ""
        while (event := await asyncio.to_thread(next, self.events)).kind != "end":
            text += event.text
            yield event
        self.done = True
        yield replace(event, result=Result(answer={"same": text}, tensors={}, package=self.echo.id))

    def cancel(self) -> None:
        self.token.cancel()
        self.echo.cancelled += not self.done


async def echoing(tmp_path: Path, pool: ThreadPoolExecutor, delay_s: float = 0.0) -> tuple[Models, Echo]:
    reader_package(tmp_path / "reader" / "1.0.0")
    chain_package(tmp_path, SPOKEN, example=False)
    models = await scanned(tmp_path, pool)
    echo = Echo(models.get("reader"), delay_s)
    models._served["reader"]["1.0.0"] = cast(Any, echo)
    return models, echo


async def test_a_stage_that_streams_is_taken_whole_by_the_next_under_the_one_deadline(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    models, echo = await echoing(tmp_path, pool)
    one = staged(models)
    asked = one.anyone()
    answered = await one.answer([{"text": "one two three"}], asked=asked)
    assert answered[0].answer == {"same": "one two three"} and echo.deadlines_s == [asked.deadline_s] * 2
    await models.close()


async def test_events_say_which_stage_they_come_from_and_end_with_the_whole(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    models, _ = await echoing(tmp_path, pool)
    one = staged(models)
    got = [event async for event in one.events({"text": "a b"}, one.anyone())]
    assert [(event.text, event.attributes["stage"]) for event in got[:-1]] == [
        ("a ", "read"), ("b", "read"), ("a ", "again"), ("b", "again"),
    ]  # fmt: skip
    last = got[-1]
    assert last.result is not None and last.result.answer == {"same": "a b"}
    assert set(last.attributes[STAGES_MS]) == {"read", "again"} and one.items == 0
    await models.close()


async def test_closing_the_events_ends_the_stream_under_way(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    models, echo = await echoing(tmp_path, pool, delay_s=0.02)
    one = staged(models)
    async with aclosing(one.events({"text": "a b c d e f g h"}, one.anyone())) as events:
        async for _ in events:
            break
    assert echo.cancelled == 1 and one.items == 0
    task = asyncio.ensure_future(one.answer([{"text": "a b c d e f g h"}]))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert echo.cancelled == 2 and one.items == 0
    await models.close()
