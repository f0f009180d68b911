"""llama.cpp behind the protocol: what had to hold before anything was built on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp", reason="language models need the extra `llm`")

from gallery.assistant_llm.build import SOURCE, WEIGHTS
from gallery.fetch import load_source
from onward.errors import ExecutionError, InputError, OnwardError, PackageError, TooLarge
from onward.execute.llama import LlamaBackend
from onward.types import CancelToken, Event, Prompt, Sampling

pytestmark = pytest.mark.weights
GREEDY = Sampling(temperature=0, max_tokens=24)
SLOTS, CONTEXT = 4, 512


@pytest.fixture(scope="module")
def backend() -> Iterator[LlamaBackend]:
    backend = LlamaBackend(load_source(SOURCE)[WEIGHTS], context_tokens=CONTEXT, slots=SLOTS)
    yield backend
    backend.close()


def ask(text: str, **sampling: Any) -> Prompt:
    return Prompt(messages=({"role": "user", "content": text},), sampling=replace(GREEDY, **sampling))


def events(backend: LlamaBackend, prompt: Prompt) -> list[Event]:
    return list(backend.stream(prompt, CancelToken()))


def answer(backend: LlamaBackend, prompt: Prompt) -> dict[str, Any]:
    return dict(events(backend, prompt)[-1].attributes["answer"])


def test_pieces_are_the_whole_and_tokens_are_counted(backend: LlamaBackend) -> None:
    prompt = ask("Name three colours.")
    told = events(backend, prompt)
    whole = told[-1].attributes["answer"]
    assert "".join(event.text for event in told) == whole["text"] and len(told) > 10
    assert (whole["finish_reason"], whole["completion_tokens"]) == ("length", 24)
    assert backend.admit(prompt).prompt_tokens == whole["prompt_tokens"]


def test_a_stream_that_is_cancelled_or_left_ends_within_a_step_and_frees_its_slot(backend: LlamaBackend) -> None:
    long = ask("Tell me a long story.", max_tokens=400)
    for leave in (True, False):
        cancel = CancelToken()
        stream = backend.stream(long, cancel)
        next(stream)
        started = time.perf_counter()
        if leave:
            stream.close()
        else:
            cancel.cancel()
            assert list(stream) == []
        assert time.perf_counter() - started < 2.0  # a step takes some 10 ms, and as much more as others need the cores
    assert answer(backend, ask("Hello."))["text"]


def test_a_prompt_that_is_still_being_read_can_be_given_up(backend: LlamaBackend) -> None:
    cancel = CancelToken()
    told: list[Event] = []

    def tell(event: Event) -> bool:
        told.append(event)
        return False

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(backend.drive, ask("word " * (CONTEXT - 80)), cancel, tell)
        cancel.cancel()
        future.result(30)
    assert told == []


def test_prompts_side_by_side_never_see_each_others_text(backend: LlamaBackend) -> None:
    prompts = [ask(f"Write about the number {number} and a city.") for number in range(3 * SLOTS)]
    alone = [answer(backend, prompt)["text"] for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as threads:
        together = list(threads.map(lambda prompt: answer(backend, prompt)["text"], prompts))
    assert together == alone


def test_a_seed_gives_the_same_text_again(backend: LlamaBackend) -> None:
    one, again, other = (answer(backend, ask("Hello.", temperature=1.0, seed=seed))["text"] for seed in (5, 5, 6))
    assert one == again != other


def test_the_beginning_of_a_prompt_is_read_once(backend: LlamaBackend) -> None:
    prompt = ask("What is the largest ocean on the planet, and how deep is it?")
    first, second = answer(backend, prompt), answer(backend, prompt)
    assert second["cached_tokens"] > first["prompt_tokens"] // 2 and second["text"] == first["text"]


def test_stop_bias_and_grammar_are_kept(backend: LlamaBackend) -> None:
    whole = answer(backend, ask("Count to ten."))["text"]
    stop = whole[8:11]
    stopped = answer(backend, ask("Count to ten.", stop=(stop,)))
    assert stopped["text"] == whole[: whole.index(stop)] and stopped["finish_reason"] == "stop"
    assert answer(backend, ask("Yes or no?", grammar='root ::= "maybe"'))["text"] == "maybe"
    every = answer(backend, ask("Hello.", max_tokens=1))["text"]
    forbidden = dict.fromkeys(range(0, 49000), -100.0)
    assert answer(backend, ask("Hello.", max_tokens=1, logit_bias=forbidden))["text"] != every


def test_a_schema_is_kept_and_a_tool_is_called(backend: LlamaBackend) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "number"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    made = json.loads(answer(backend, ask("A number.", json_schema=schema, max_tokens=60))["text"])
    assert set(made) == {"n"}
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    told = events(backend, replace(ask("Look.", max_tokens=80), tools=(tool,), tool_choice="required"))
    (call,) = told[-1].attributes["answer"]["tool_calls"]
    assert call["function"]["name"] == "look" and set(json.loads(call["function"]["arguments"])) == {"n"}
    assert told[0].attributes["tool_calls"][0]["id"] == call["id"] and told[0].text == ""


def test_log_probabilities_have_the_alternatives_that_were_asked_for(backend: LlamaBackend) -> None:
    for alternatives in (0, 3):
        told = answer(backend, ask("Hello.", logprobs=alternatives, max_tokens=4))["logprobs"]
        assert len(told) == 4 and all(len(one["top_logprobs"]) == alternatives for one in told)
        assert all(one["logprob"] <= 0 and bytes(one["bytes"]).decode("utf-8", "replace") for one in told)


@pytest.mark.parametrize(
    ("prompt", "error", "where"),
    [
        (ask("word " * CONTEXT), TooLarge, "messages"),
        (ask("x", json_schema={"type": "nonsense"}), InputError, "json_schema"),
        (replace(ask("x"), tool_choice={"function": {"name": "f"}}), InputError, "tool_choice"),
        (replace(ask("x"), messages=({"role": "user", "content": [{"type": "image_url"}]},)), InputError, "messages"),
    ],
)
def test_what_is_wrong_is_said_at_admission_and_the_engine_goes_on(
    backend: LlamaBackend, prompt: Prompt, error: type[OnwardError], where: str
) -> None:
    with pytest.raises(error) as refused:
        backend.admit(prompt)
    assert refused.value.where == where
    assert answer(backend, ask("Hello."))["text"]


def test_a_grammar_that_is_none_is_said_before_the_first_word(backend: LlamaBackend) -> None:
    with pytest.raises(InputError) as refused:
        next(backend.stream(ask("x", grammar="root ::= ("), CancelToken()))
    assert refused.value.where == "grammar"


def test_a_file_that_is_no_model_or_a_context_beyond_its_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(PackageError):
        LlamaBackend(tmp_path / "model.gguf")
    with pytest.raises(PackageError, match="too long"):
        LlamaBackend(load_source(SOURCE)[WEIGHTS], context_tokens=1 << 20)


def test_closing_ends_what_runs_and_nothing_begins_after_it() -> None:
    backend = LlamaBackend(load_source(SOURCE)[WEIGHTS], context_tokens=CONTEXT, slots=2)
    stream = backend.stream(ask("Tell me a long story.", max_tokens=400), CancelToken())
    next(stream)
    backend.close()
    backend.close()
    assert len(list(stream)) < 390
    with pytest.raises(ExecutionError):
        list(backend.stream(ask("Hello."), CancelToken()))
