"""A package whose engine streams: checked texts are told when they have passed, others as they come."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from onward.errors import ExecutionError, GoldenExampleFailed, InputError, UnknownOutput
from onward.execute.backend import Admission
from onward.package.manifest import POLICY_FILE, parse_manifest
from onward.package.package import Package
from onward.streaming import StreamingPipeline
from onward.types import CancelToken, Event, PackageId, Prompt, Sampling

PLAIN = """
format = 1
[package]
name = "writer"
version = "1.0.0"
[[input]]
name = "messages"
datatype = "BYTES"
content = "chat"
[[input]]
name = "seed"
datatype = "INT64"
required = false
[[output]]
name = "text"
datatype = "BYTES"
content = "text"
[[output]]
name = "finish_reason"
datatype = "BYTES"
on_request = true
[execute]
backend = "llama"
file = "model.gguf"
slots = 2
[[prepare]]
step = "prompt"
messages = "messages"
"""
CHECKED = (
    PLAIN
    + """
[[generate]]
step = "prose"
min_words = 3
attempts = 3
"""
)


class Engine:
    """Says what it is told to, word by word: one text for each attempt; keeps what it was asked."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.asked: list[Prompt] = []
        self.ended_early = 0
        self.together = self._most = 0
        self._lock = threading.Lock()

    def admit(self, asked: Prompt, /) -> Admission:
        return Admission(prompt_tokens=len(asked.messages), max_new_tokens=asked.sampling.max_tokens)

    def stream(self, asked: Prompt, cancel: CancelToken, /) -> Generator[Event, None, None]:
        with self._lock:
            text = self.texts[min(len(self.asked), len(self.texts) - 1)]
            self.asked.append(asked)
        words = text.split(" ")
        done = 0
        try:
            for done, word in enumerate(words, 1):
                if cancel.cancelled:
                    return
                yield Event(kind="delta", text=word if done == 1 else f" {word}")
        finally:
            self.ended_early += done < len(words)
        answer = {"text": text, "finish_reason": "stop", "prompt_tokens": 4, "completion_tokens": len(words)}
        yield Event(kind="end", attributes={"answer": answer})

    def close(self) -> None:
        self.texts = []


def pipeline(folder: Path, engine: Engine, manifest: str = PLAIN) -> StreamingPipeline:
    package_id = PackageId(name="writer", version="1.0.0", digest="0" * 64)
    package = Package(folder=folder, manifest=parse_manifest(manifest), id=package_id)
    return StreamingPipeline(package, engine=engine)


def test_words_flow_as_they_come_and_the_end_has_the_whole(tmp_path: Path) -> None:
    with pipeline(tmp_path, Engine(["one two three"])) as writer:
        events = list(writer.stream("Hello.", CancelToken()))
        assert "".join(event.text for event in events) == "one two three" and len(events) == 4
        assert events[-1].result is not None and events[-1].result.answer == {"text": "one two three"}
        whole = writer({"messages": "Hello."}, outputs=["finish_reason"])
        assert whole.answer == {"text": "one two three", "finish_reason": "stop"}
        with pytest.raises(UnknownOutput):
            writer("Hello.", outputs=["reason"])


def test_a_text_is_told_only_once_it_has_passed_its_check_and_another_seed_is_tried(tmp_path: Path) -> None:
    engine = Engine(["too short", "Long enough now."])
    with pipeline(tmp_path, engine, CHECKED) as writer:
        events = list(writer.stream({"messages": "Hello.", "seed": 7}, CancelToken()))
    assert [event.kind for event in events] == ["notice", "delta", "end"]
    assert events[1].text == "Long enough now." and events[-1].attributes["answer"]["attempts"] == 2
    assert events[-1].attributes["answer"]["completion_tokens"] == 5
    assert [asked.sampling.seed for asked in engine.asked] == [7, 8]


def test_a_checked_text_is_asked_for_with_a_grammar(tmp_path: Path) -> None:
    engine = Engine(["Long enough now."])
    with pipeline(tmp_path, engine, CHECKED) as writer:
        assert writer("Hello.").answer == {"text": "Long enough now."}
    assert engine.asked[0].sampling.grammar.startswith("root ::=")


def test_where_no_attempt_passes_there_is_an_error_and_no_text(tmp_path: Path) -> None:
    engine = Engine(["too short"])
    with pipeline(tmp_path, engine, CHECKED) as writer, pytest.raises(ExecutionError, match="3 attempts"):
        writer("Hello.")
    assert len(engine.asked) == 3


def test_cancelling_or_leaving_ends_the_engines_work(tmp_path: Path) -> None:
    engine = Engine(["one two three four"])
    with pipeline(tmp_path, engine) as writer:
        cancel = CancelToken()
        events = writer.stream("Hello.", cancel)
        next(events)
        cancel.cancel()
        assert list(events) == []
        left = writer.stream("Hello.", CancelToken())
        next(left)
        left.close()  # type: ignore[attr-defined]
    assert engine.ended_early == 2


def test_several_are_answered_in_order_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    with pipeline(tmp_path, Engine(["a b c"])) as writer:
        assert [result.answer["text"] for result in writer.batch(["x"] * 5)] == ["a b c"] * 5
        with pytest.raises(InputError) as refused:
            writer.batch(["x", {"messages": []}])
    assert refused.value.where == "[1] messages"


def test_what_the_engine_is_asked_directly_is_answered_as_it_answers(tmp_path: Path) -> None:
    prompt = Prompt(text="Once", sampling=Sampling(max_tokens=5))
    with pipeline(tmp_path, Engine(["upon a"]), CHECKED) as writer:
        assert writer.admit(prompt).max_new_tokens == 5
        end = list(writer.run(prompt, CancelToken()))[-1]
    assert end.result is not None and end.result.answer["completion_tokens"] == 2


def test_examples_that_differ_are_refused(tmp_path: Path) -> None:
    line = '{"input": {"messages": [{"role": "user", "content": "x"}]}, "answer": %s}\n'
    file = tmp_path / "examples.jsonl"
    with pipeline(tmp_path, Engine(["a b"])) as writer:
        file.write_text(line % '{"text": "a b"}' + line % "{}", encoding="utf-8")
        assert writer.check_examples() == 2
        file.write_text(line % '{"text": "a c"}', encoding="utf-8")
        with pytest.raises(GoldenExampleFailed):
            writer.check_examples()


def test_a_package_that_streams_cannot_decide(tmp_path: Path) -> None:
    (tmp_path / POLICY_FILE).touch()
    with pytest.raises(Exception, match="cannot decide"):
        pipeline(tmp_path, Engine([]))


def test_a_bare_value_stands_for_the_only_input_that_must_be_there(tmp_path: Path) -> None:
    with pipeline(tmp_path, Engine(["a"])) as writer:
        item: Any = writer.item("Hello.")
        assert item == {"messages": "Hello."}
