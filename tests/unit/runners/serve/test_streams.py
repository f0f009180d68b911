"""A served package that streams: as many run as there are slots, tokens are counted and given back, nothing is left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from onward.errors import Cancelled, DeadlineExceeded, ExecutionError, InputError, Overloaded, UsageError
from onward.execute.backend import Admission
from onward.package.manifest import parse_manifest
from onward.package.package import Package
from onward.runners.serve.streams import StreamedModel
from onward.streaming import StreamingPipeline
from onward.types import CancelToken, Event, PackageId, Prompt, Sampling

MANIFEST = """
format = 1
[package]
name = "writer"
version = "1.0.0"
[[input]]
name = "messages"
datatype = "BYTES"
content = "chat"
[[output]]
name = "text"
datatype = "BYTES"
content = "text"
[execute]
backend = "llama"
file = "model.gguf"
slots = 2
[limits]
queue_tokens = 100
[[prepare]]
step = "prompt"
messages = "messages"
[sampling]
max_tokens = 20
"""


class Engine:
    """Says three words, the last one once it may; prompts of "!" are refused, of "?" fail half way."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.running = self.most = self.given_up = 0
        self._lock = threading.Lock()

    def admit(self, asked: Prompt, /) -> Admission:
        if asked.text.startswith("!"):
            raise InputError("refused", where="text")
        return Admission(prompt_tokens=10, max_new_tokens=asked.sampling.max_tokens)

    def stream(self, asked: Prompt, cancel: CancelToken, /) -> Generator[Event, None, None]:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        ended = False
        try:
            yield Event(kind="delta", text="one ")
            if asked.text.startswith("?"):
                raise ExecutionError("broken")
            yield Event(kind="delta", text="two ")
            while not self.may_end.wait(0.005):
                if cancel.cancelled:
                    return
            ended = True
            yield Event(kind="delta", text="three")
        finally:
            with self._lock:
                self.running -= 1
                self.given_up += not ended
        counts = {"prompt_tokens": 10, "completion_tokens": 3, "cached_tokens": 4}
        yield Event(kind="end", attributes={"answer": {"text": "one two three", "finish_reason": "stop"} | counts})

    def close(self) -> None:
        pass


@asynccontextmanager
async def served(folder: Path, engine: Engine) -> Any:
    package_id = PackageId(name="writer", version="1.0.0", digest="0" * 64)
    package = Package(folder=folder, manifest=parse_manifest(MANIFEST), id=package_id)
    with ThreadPoolExecutor(2) as pool:
        model = StreamedModel(StreamingPipeline(package, engine=engine), pool)
        try:
            yield model
        finally:
            await asyncio.wait_for(model.close(), 10)


def prompt(text: str = "Hello.") -> Prompt:
    return Prompt(text=text, sampling=Sampling(max_tokens=20))


def within(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.002)


async def text_of(running: Any) -> str:
    return "".join([event.text async for event in running])


async def test_as_many_run_as_there_are_slots_and_all_are_answered(tmp_path: Path) -> None:
    engine = Engine()
    async with served(tmp_path, engine) as model:
        streams = [model.admit(prompt(), deadline_s=within()) for _ in range(3)]
        await until(lambda: engine.running == 2 and model.stream_metrics.running == 2)
        assert model.stream_metrics.queued_tokens == 3 * 30
        engine.may_end.set()
        assert [await text_of(stream) for stream in streams] == ["one two three"] * 3
        assert engine.most == 2 and engine.given_up == 0
        await until(lambda: model.stream_metrics.queued_tokens == 0 and model.stream_metrics.running == 0)
        counted = model.stream_metrics
        assert (counted.prompt_tokens, counted.generated_tokens, counted.cached_tokens) == (30, 9, 12)


async def test_where_too_many_tokens_wait_the_next_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    engine = Engine()
    async with served(tmp_path, engine) as model:
        streams = [model.admit(prompt(), deadline_s=within()) for _ in range(3)]
        await until(lambda: model.stream_metrics.queued_tokens == 90)
        with pytest.raises(Overloaded) as refused:
            model.admit(prompt(), deadline_s=within())
        assert refused.value.retry_after_s > 0 and model.metrics.shed["queue_full"] == 1
        engine.may_end.set()
        assert [await text_of(stream) for stream in streams] == ["one two three"] * 3
        await until(lambda: model.stream_metrics.queued_tokens == 0)
        assert await text_of(model.admit(prompt(), deadline_s=within())) == "one two three"


async def test_one_that_waits_for_a_slot_and_is_given_up_never_runs(tmp_path: Path) -> None:
    engine = Engine()
    async with served(tmp_path, engine) as model:
        streams = [model.admit(prompt(), deadline_s=within()) for _ in range(3)]
        await until(lambda: engine.running == 2)
        streams[2].cancel()
        with pytest.raises(Cancelled):
            await text_of(streams[2])
        await until(lambda: model.stream_metrics.queued_tokens == 60)
        engine.may_end.set()
        assert [await text_of(stream) for stream in streams[:2]] == ["one two three"] * 2
        assert engine.most == 2 and engine.given_up == 0


async def test_a_reader_that_leaves_frees_the_slot(tmp_path: Path) -> None:
    engine = Engine()
    async with served(tmp_path, engine) as model:
        streams = [model.admit(prompt(), deadline_s=within()) for _ in range(2)]
        await until(lambda: engine.running == 2)
        for stream in streams:
            stream.cancel()
        await until(lambda: engine.given_up == 2 and model.stream_metrics.queued_tokens == 0)
        engine.may_end.set()
        assert await text_of(model.admit(prompt(), deadline_s=within())) == "one two three"


async def test_the_deadline_ends_a_stream_also_one_that_has_begun(tmp_path: Path) -> None:
    engine = Engine()
    async with served(tmp_path, engine) as model:
        stream = model.admit(prompt(), deadline_s=within(0.1))
        with pytest.raises(DeadlineExceeded):
            await text_of(stream)
        await until(lambda: engine.given_up == 1 and model.stream_metrics.queued_tokens == 0)


async def test_what_is_wrong_with_a_request_is_raised_first_and_costs_no_slot(tmp_path: Path) -> None:
    engine = Engine()
    async with served(tmp_path, engine) as model:
        stream = model.admit(prompt("!"), deadline_s=within())
        with pytest.raises(InputError, match="refused"):
            await stream.admitted()
        await until(lambda: model.stream_metrics.queued_tokens == 0)
        assert engine.most == 0


async def test_an_engine_that_fails_half_way_fails_that_stream_alone(tmp_path: Path) -> None:
    engine = Engine()
    async with served(tmp_path, engine) as model:
        bad, good = (model.admit(prompt(text), deadline_s=within()) for text in ("?", "Hello."))
        engine.may_end.set()
        with pytest.raises(ExecutionError, match="broken"):
            await text_of(bad)
        assert await text_of(good) == "one two three"


async def test_of_several_items_the_first_that_fails_ends_the_others(tmp_path: Path) -> None:
    engine = Engine()
    async with served(tmp_path, engine) as model:
        with pytest.raises(InputError) as raised:
            await model.answer([{"messages": "Hello."}, {"text": 1}])
        assert raised.value.where.startswith("[1]")
        engine.may_end.set()
        results = await model.answer([{"messages": "Hello."}, {"messages": "Hello."}])
        assert [result.answer for result in results] == [{"text": "one two three"}] * 2
        assert model.metrics.rows == 2


async def test_there_are_no_tensors_to_infer_on(tmp_path: Path) -> None:
    async with served(tmp_path, Engine()) as model:
        with pytest.raises(UsageError):
            model.handle_infer(None)
