"""How values find their way through stages, without any stage."""

from __future__ import annotations

from typing import Any

import pytest

from onward.errors import InputError, ManifestError, WrongDatatype
from onward.flow import Flow
from onward.package.manifest import parse_manifest
from onward.package.stages import StageFields
from onward.types import Blob, Field

TEXT = """format = 1
[package]
name = "whole"
version = "1.0.0"
[[input]]
name = "clip"
datatype = "BYTES"
content = "audio"
[[input]]
name = "who"
datatype = "BYTES"
required = false
default = ""
[[output]]
name = "said"
datatype = "BYTES"
content = "text"
[[stage]]
name = "hear"
package = "ear"
version = "1.0.0"
inputs = { sound = "clip" }
[[stage]]
name = "think"
package = "mind"
version = "1.0.0"
inputs = { messages = "hear.text", customer = "who" }
when = "hear.sure"
values = [true]
[[stage]]
name = "echo"
package = "ear"
version = "1.0.0"
inputs = { sound = "hear.clip" }
[answer]
said = ["think.text", "hear.text"]
"""


def field(name: str, content: Any = "text", datatype: str = "BYTES", **more: Any) -> Field:
    return Field(name=name, datatype=datatype, content=content, **more)


def fields(inputs: list[Field], outputs: list[Field], asked: tuple[str, ...] = ()) -> StageFields:
    return StageFields(
        inputs={one.name: one for one in inputs}, outputs={one.name: one for one in outputs}, asked=frozenset(asked),
        decides=False, talks=False,
    )  # fmt: skip


EAR = fields(
    [field("sound", "audio")],
    [field("text"), field("sure", "value", "BOOL"), field("clip", "audio"), field("rest", "value")], ("sure", "rest"),
)  # fmt: skip
MIND = fields([field("messages", "chat"), field("customer", "value", required=False, default="")], [field("text")])


@pytest.fixture
def flow() -> Flow:
    return Flow(parse_manifest(TEXT), {"hear": EAR, "think": MIND, "echo": EAR})


def test_a_text_becomes_a_chat_and_sound_becomes_its_bytes(flow: Flow) -> None:
    hear, think, echo = flow.stages
    values = flow.begin({"clip": Blob(data=b"abc", media_type="audio/wav"), "who": "ann"})
    assert flow.feed(hear, values) == {"sound": b"abc"}
    flow.take(hear, values, {"text": "hello", "sure": True, "clip": Blob(data=b"c", media_type="audio/wav")})
    assert flow.feed(think, values) == {"messages": [{"role": "user", "content": "hello"}], "customer": "ann"}
    assert flow.feed(echo, values) == {"sound": b"c"}


def test_a_default_is_left_to_the_stage_that_has_it(flow: Flow) -> None:
    values = flow.begin({"clip": b"abc"}) | {"hear.text": "hello"}
    assert "customer" not in flow.feed(flow.stages[1], values)


@pytest.mark.parametrize(("sure", "runs"), [(True, True), (False, False), (1, False), (None, False)])
def test_a_stage_runs_where_its_source_has_one_of_the_values(flow: Flow, sure: Any, runs: bool) -> None:
    values = flow.begin({"clip": b"abc"})
    flow.take(flow.stages[0], values, {"text": "hello", "sure": sure})
    assert flow.runs(flow.stages[1], values) is runs
    flow.take(flow.stages[1], values, {"text": "I think so"} if runs else {})
    assert flow.answer(values, (), {}) == {"said": "I think so" if runs else "hello"}


@pytest.mark.parametrize(("text", "runs"), [("hello", True), ("", False), (None, False)])
def test_without_values_a_stage_runs_where_its_source_holds_something(text: Any, runs: bool) -> None:
    lines = TEXT.replace('when = "hear.sure"\nvalues = [true]', 'when = "hear.text"')
    flow = Flow(parse_manifest(lines), {"hear": EAR, "think": MIND, "echo": EAR})
    values = flow.begin({"clip": b"abc"})
    flow.take(flow.stages[0], values, {"text": text})
    assert flow.runs(flow.stages[1], values) is runs


def test_outputs_on_request_are_asked_only_where_they_are_taken(flow: Flow) -> None:
    assert flow.asked == {"hear": ("sure",), "think": (), "echo": ()}


def test_what_is_no_sound_or_text_is_refused_at_the_beginning(flow: Flow) -> None:
    with pytest.raises(InputError) as wrong:
        flow.begin({"clip": "abc"})
    assert wrong.value.where == "clip"
    with pytest.raises(WrongDatatype):
        flow.begin({"clip": b"abc", "who": 3})


def test_an_error_is_told_by_what_the_caller_gave_or_by_the_stage(flow: Flow) -> None:
    hear, think, _ = flow.stages
    assert flow.told(hear, InputError(where="sound")).where == "clip"
    assert flow.told(think, InputError(where="messages")).where == "think.messages"
    assert flow.told(think, InputError()).where == "think"


def test_stages_that_do_not_fit_make_no_flow() -> None:
    silent = fields([field("sound", "audio")], [field("text")])
    with pytest.raises(ManifestError, match="no such output"):
        Flow(parse_manifest(TEXT), {"hear": silent, "think": MIND, "echo": silent})
