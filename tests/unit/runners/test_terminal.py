"""What a person sees in a terminal: readable lines, whatever an answer holds."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onward.runners import terminal
from onward.types import Blob, Decision, Event, PackageId, Result

IDENTITY = PackageId(name="p", version="1.0", digest="0" * 64)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(terminal, "_console", Console(file=file, width=100, highlight=False))
    return file


def drawn(answer: dict[str, Any]) -> str:
    file = io.StringIO()
    Console(file=file, width=100).print(terminal.answer_table(answer))
    return file.getvalue()


def test_scored_labels_are_bars_and_stand_for_the_best_one() -> None:
    labels = [{"label": "cup", "score": 0.75}, {"label": "bowl", "score": 0.0}]
    lines = drawn({"label": "cup", "score": 0.75, "labels": labels, "size": 0.123456789}).splitlines()
    assert [line.split() for line in lines] == [
        ["cup", "0.750", "█" * 18],
        ["bowl", "0.000", "█"],
        ["size", "0.123457"],
    ]


def test_an_entity_shows_its_text_and_its_place_and_no_bar() -> None:
    lines = drawn({"entities": [{"label": "PER", "score": 0.5, "text": "Ann [b]", "start": 3, "end": 10}]}).splitlines()
    assert [line.split() for line in lines] == [["PER", "0.500", "Ann", "[b]", "3–10"]]


def test_what_moved_here_is_told_with_its_notes_and_what_was_refused_with_its_reason(screen: io.StringIO) -> None:
    terminal.show_moved({"source": "a", "name": "a", "version": "1", "path": "out/a/1", "compared": True, "rows": 3,
                         "notes": ["optimization: passed over [x]"]})  # fmt: skip
    terminal.show_moved({"source": "b", "version": "2", "refused": "no such file [x]", "notes": []})
    assert [line.strip() for line in screen.getvalue().splitlines()] == [
        "imported a 1 → out/a/1", "compared with the original on 3 rows", "- optimization: passed over [x]",
        "refused b 2: no such file [x]",
    ]  # fmt: skip


def test_a_record_with_a_reason_shows_the_reason_and_no_bar() -> None:
    lines = drawn({"films": [{"id": 7, "title": "Alien", "score": 0.5, "reason": "popular [now]"}]}).splitlines()
    assert [line.split() for line in lines] == [["Alien", "0.500", "popular", "[now]"]]


@pytest.mark.parametrize(("score", "bars"), [(math.nan, 0), (math.inf, 24), (-5.0, 1), (800.0, 24)])
def test_scores_that_are_no_shares_are_drawn_too(score: float, bars: int) -> None:
    assert drawn({"labels": [{"label": "a", "score": score}]}).count("█") == bars


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner, max_size=8),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_answer_can_be_drawn(answer: dict[str, Any]) -> None:
    drawn(answer)


def test_text_of_a_model_is_never_markup() -> None:
    assert "[bold]x[/]" in drawn({"text": "[bold]x[/]"})


def test_long_vectors_say_how_long_they_are_and_files_how_large() -> None:
    shown = drawn({"vector": np.arange(100.0).tolist(), "clip": Blob(data=b"1234", media_type="audio/wav")})
    assert "… 100 in all" in shown
    assert "4 bytes of audio/wav" in shown


def test_an_answer_shows_input_package_time_and_decision(screen: io.StringIO) -> None:
    decision = Decision(outcome="review", rule="r", reasons=("large amount",))
    result = Result(answer={"y": 1.0}, tensors={}, package=IDENTITY, decision=decision)
    terminal.show_answer("[1]", result, 0.0123)
    shown = screen.getvalue()
    assert all(part in shown for part in ("[1]", "p 1.0", "12.3 ms", "y", "decision review", "large amount"))


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ({"step": "table", "columns": ["a", "b"], "output": "f", "unknown": "nan"},
         "table  2 columns → f  (unknown categories: NaN)"),
        ({"step": "tokenize", "input": "text", "outputs": ["ids", "mask"], "file": "t.json", "max_tokens": 8},
         "tokenize  text → ids, mask  (t.json, max_tokens 8)"),
        ({"step": "decode_image", "input": "image", "output": "pixels"}, "decode_image  image → pixels"),
        ({"step": "graph", "file": "g.onnx"}, "graph  g.onnx"),
        ({"step": "labels", "scores": "s", "indices": "", "output": "label", "file": "l.txt", "top_k": 5},
         "labels  s → label  (l.txt, top_k 5)"),
        ({"step": "named", "input": "c", "names": ["a"]}, "named  c → 1 names"),
        (
            {"step": "catalogue", "ids": "ids", "output": "films", "file": "films.jsonl", "top_k": 10},
            "catalogue  ids → films  (films.jsonl, top_k 10)",
        ),
        ({"backend": "onnx", "file": "m.onnx", "instances": 2, "threads": 0, "providers": ["cpu"]},
         "onnx  m.onnx  (2 instance(s), a thread for every core, cpu)"),
        ({"backend": "python", "entry": "m:C", "instances": 1, "threads": 1, "providers": ["cpu"]},
         "python  m:C  (1 instance(s), 1 thread(s), cpu)"),
    ],
)  # fmt: skip
def test_a_step_is_one_readable_line(step: dict[str, Any], line: str) -> None:
    assert terminal.step_line(step) == line


def test_a_package_is_shown_without_python_in_it(screen: io.StringIO) -> None:
    description: dict[str, Any] = {
        "package": {"name": "p", "version": "1", "task": "tensor", "licence": "", "description": "[x]", "digest": "d"},
        "inputs": [
            {"name": "a", "datatype": "FP32", "minimum": 0.0, "units": "EUR", "default": 1.0},
            {"name": "b", "datatype": "BYTES", "categories": ["x", "y"], "required": False},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [3], "on_request": True}],
        "steps": {"prepare": [], "execute": {"backend": "onnx", "file": "m.onnx", "instances": 1, "threads": 1,
                                             "providers": ["cpu"]}, "generate": []},
        "batching": {"max_batch_size": 32, "pad": {"ids": 0}},
        "limits": {"rows": 1024},
    }  # fmt: skip
    terminal.show_package(description)
    shown = screen.getvalue()
    for part in ("not stated", "[x]", "0.0 to ∞ · EUR · default 1.0", "x | y · optional", "[3]", "on request",
                 "onnx  m.onnx", "max_batch_size 32, pad ids 0", "rows 1024"):  # fmt: skip
        assert part in shown
    assert "{" not in shown


def test_reports_name_the_package(screen: io.StringIO) -> None:
    terminal.show_verified({"name": "p", "version": "1", "examples": 3, "seconds": 0.1, "digest": "d" * 64})
    packed = {"name": "p", "version": "1", "path": "out", "digest": "d" * 64}
    terminal.show_packed(packed | {"compared": True, "rows": 64})
    assert "compared with the original on 64 rows" in screen.getvalue()
    assert "not compared" not in screen.getvalue()
    terminal.show_packed(packed | {"compared": False, "rows": 0})
    assert "not compared with the original" in screen.getvalue()
    shown = screen.getvalue()
    assert "verified p 1" in shown
    assert "3 golden examples" in shown
    assert "packed p 1 → out" in shown


def told(screen: io.StringIO, *events: Event) -> list[str]:
    terminal.show_stream("a question [of two lines]\n", iter(events), 0.0)
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def end(**answer: Any) -> Event:
    return Event(kind="end", result=Result(answer=answer, tensors={}, package=IDENTITY))


def test_a_stream_is_written_as_it_comes_and_its_text_once(screen: io.StringIO) -> None:
    lines = told(
        screen, Event(kind="delta", text="Well, [b]"), Event(kind="delta", text="yes."), end(text="Well, [b]yes.")
    )
    assert "Well, [b]yes." in lines
    assert sum("yes" in line for line in lines) == 1
    assert "first word" in lines[-1] and "p 1.0" in lines[-1]


def test_what_else_the_end_of_a_stream_holds_is_shown_after_it(screen: io.StringIO) -> None:
    lines = told(
        screen, Event(kind="notice", text="attempt 1 [no]"), Event(kind="delta", text="Hi"), end(text="Hi", title="T")
    )
    assert any("attempt 1 [no]" in line for line in lines)
    assert ["title", "T"] in [line.split() for line in lines]


def test_runners_that_agree_and_such_that_do_not_are_lines_of_a_table(screen: io.StringIO) -> None:
    row = {"inputs": 10, "equal": 10, "agreeing": 10, "difference": 0.0, "refused": 0, "seconds": 1.25}
    terminal.show_agreement([{"runner": "serve", **row}, {"runner": "batch", **row, "equal": 3, "agreeing": 9}])
    lines = [line.split() for line in screen.getvalue().splitlines()]
    assert lines[1] == ["serve", "10", "10", "10", "0", "0", "1.2"]
    assert lines[2][:4] == ["batch", "10", "3", "9"]
