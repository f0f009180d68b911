"""Language models in GGUF, by llama.cpp: several texts at a time, each token as it comes, in this process.

The engine batches by itself (continuous batching over `slots`) and keeps the beginnings of prompts that it has read.
Its own HTTP interface is bound to a socket in a private folder and to a key that only this object knows; it is asked
there how a chat template renders a chat and how many tokens a text has. Needs the extra `llm`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from onward.errors import ExecutionError, InputError, MissingExtra, OnwardError, PackageError, TooLarge
from onward.execute.backend import Admission, Tell
from onward.execute.channel import Channel
from onward.execute.constraints import grammar_of
from onward.execute.llama_socket import LlamaSocket
from onward.execute.tool_calls import Reading, ToolUse
from onward.package.gguf import read_gguf
from onward.package.manifest import Manifest
from onward.types import CancelToken, Event, Prompt, Sampling

_log = logging.getLogger("onward.llama")
USUAL_CONTEXT_TOKENS = 4096
# A prompt is read in steps of so many tokens: between two of them it can be cancelled, and others get their tokens.
STEP_TOKENS = 256
CACHE_MIB = 64
"""How much the beginnings of prompts may take that no slot holds any more."""
_SILENT = -1


class LlamaBackend:
    """A GGUF file behind the protocol `Streaming`: what it is asked is a `Prompt`."""

    def __init__(self, file: Path, *, context_tokens: int = 0, slots: int = 4, threads: int = 0) -> None:
        """Load and warm up. `context_tokens` is that of each slot (0: as trained, at most 4,096).

        Raises `PackageError` for a file that cannot be loaded, `MissingExtra` without the engine.
        """
        facts = read_gguf(file)
        trained = facts.context_tokens or USUAL_CONTEXT_TOKENS
        self.context_tokens = context_tokens or min(trained, USUAL_CONTEXT_TOKENS)
        if self.context_tokens > trained:
            expected = f"at most {trained}, for which the model was trained"
            raise PackageError("the context is too long", where="execute.context_tokens", expected=expected,
                               found=str(self.context_tokens))  # fmt: skip
        self.has_template = bool(facts.chat_template)
        self._place = Path(tempfile.mkdtemp(prefix="onward-llama-"))
        self._key = secrets.token_urlsafe(24)
        self._running: set[CancelToken] = set()
        self._changed = threading.Condition()
        self._closed = False
        try:
            self._engine = _engine(file, self._place / "engine.sock", self._key, slots, self.context_tokens, threads)
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise
        self._socket = LlamaSocket(self._place / "engine.sock", self._key)

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> LlamaBackend:
        """The model of a package."""
        execute = manifest.execute
        return cls(
            folder / execute.file, context_tokens=execute.context_tokens, slots=execute.slots, threads=execute.threads
        )

    def admit(self, asked: Prompt, /) -> Admission:
        """Count the prompt's tokens as the engine will. Raises `TooLarge` where they leave no room for an answer."""
        tools = ToolUse(asked)
        grammar_of(asked.sampling, tools)
        tokens = self._socket.count(self._text(asked, tools))
        room = self.context_tokens - tokens
        if room < 1:
            raise TooLarge(
                "the prompt is too long for the model's context", where="messages" if asked.messages else "text",
                expected=f"at most {self.context_tokens - 1} tokens", found=f"{tokens} tokens",
            )  # fmt: skip
        return Admission(prompt_tokens=tokens, max_new_tokens=min(asked.sampling.max_tokens, room))

    def drive(self, asked: Prompt, cancel: CancelToken, tell: Tell, /) -> None:
        """Have the text written, token by token, on this thread; `tell` gets each event, and says True to end it.

        `logprobs` and `tool_calls` are attributes of the deltas, in OpenAI's form. Raises `InputError` for a schema or
        a grammar that is none, `TooLarge`, and `ExecutionError`.
        """
        tools = ToolUse(asked)
        body = _body(self._text(asked, tools), asked.sampling, grammar_of(asked.sampling, tools))
        writing = _Writing(tools.reading(), asked.sampling)
        failed: OnwardError | None = None
        over = False

        def take(chunk: Mapping[str, Any]) -> bool:
            """Called by the engine, through which no exception may pass; True ends its work."""
            nonlocal failed, over
            try:
                over = cancel.cancelled or any(tell(event) for event in writing.take(chunk))
            except OnwardError as error:
                failed, over = error, True
            return over

        with self._counted(cancel):
            try:
                self._engine.handle_completions(body, take)
            except (ValueError, RuntimeError) as error:
                raise _told({"message": str(error)}) from None
        if failed is not None:
            raise failed
        if not over:
            for event in writing.end():
                tell(event)

    def stream(self, asked: Prompt, cancel: CancelToken, /) -> Generator[Event, None, None]:
        """The same as a generator: closing it ends the work."""
        channel: Channel[Event] = Channel(cancel)

        def run() -> None:
            try:
                self.drive(asked, cancel, channel.put)
            except Exception as error:
                channel.fail(error)
            finally:
                channel.end()

        thread = threading.Thread(target=run, name="onward-llama", daemon=True)
        thread.start()
        try:
            yield from channel
        finally:
            channel.leave()
            thread.join()

    def close(self) -> None:
        """End what runs, then free the model; idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            for cancel in self._running:
                cancel.cancel()
            self._changed.wait_for(lambda: not self._running, timeout=60)
        del self._engine
        shutil.rmtree(self._place, ignore_errors=True)

    def _text(self, asked: Prompt, tools: ToolUse) -> str:
        if not asked.messages:
            return asked.text
        if not self.has_template:
            if len(asked.messages) > 1:
                expected = "one message, which the model goes on with"
                raise InputError("this model has no chat template", where="messages", expected=expected)
            return str(asked.messages[0]["content"])
        return self._socket.rendered(tools.messages(asked.messages))

    @contextlib.contextmanager
    def _counted(self, cancel: CancelToken) -> Generator[None, None, None]:
        """Work that `close` waits for."""
        with self._changed:
            if self._closed:
                raise ExecutionError("the model has been closed")
            self._running.add(cancel)
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(cancel)
                self._changed.notify_all()


class _Writing:
    """What the engine's chunks become: events, and at the end the whole answer."""

    def __init__(self, reading: Reading, sampling: Sampling) -> None:
        self._reading = reading
        self._sampling = sampling
        self._said: list[str] = []
        self._logprobs: list[Mapping[str, Any]] = []
        self._reason = ""
        self._usage: Mapping[str, Any] = {}

    def take(self, chunk: Mapping[str, Any]) -> list[Event]:
        """The events of a chunk. Raises what is wrong with the request, or with the engine."""
        if "error" in chunk:
            raise _told(chunk["error"])
        self._usage = chunk.get("usage") or self._usage
        events = []
        for choice in chunk.get("choices", ()):
            self._reason = choice["finish_reason"] or self._reason
            text = self._reading.take(choice.get("text") or "")
            found = _logprobs(choice.get("logprobs"), self._sampling.logprobs)
            self._logprobs += found
            if text or found:
                self._said.append(text)
                events.append(Event(kind="delta", text=text, attributes={"logprobs": found} if found else {}))
        return events

    def end(self) -> list[Event]:
        """The last events. Raises `ExecutionError` where the text is not what it was to be held to."""
        if not self._reason:
            raise ExecutionError("the engine ended without saying why")
        events = []
        text, calls = self._reading.end()
        if calls:
            self._reason = "tool_calls"
            told = [{"index": 0, **call} for call in calls]
            events.append(Event(kind="delta", attributes={"tool_calls": told}))
        elif text:
            self._said.append(text)
            events.append(Event(kind="delta", text=text))
        whole = "".join(self._said)
        if self._sampling.json_schema is not None and self._reason == "stop" and not _is_json(whole):
            raise ExecutionError("the model did not keep to the schema", expected="JSON", found=whole[:100])
        answer: dict[str, Any] = {
            "text": whole,
            "finish_reason": self._reason,
            "prompt_tokens": self._usage.get("prompt_tokens", 0),
            "completion_tokens": self._usage.get("completion_tokens", 0),
            "cached_tokens": (self._usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        }
        answer |= {"tool_calls": calls} if calls else {}
        answer |= {"logprobs": self._logprobs} if self._sampling.logprobs is not None else {}
        return [*events, Event(kind="end", attributes={"answer": answer})]


def _engine(file: Path, socket: Path, key: str, slots: int, context_tokens: int, threads: int) -> Any:
    try:
        import xllamacpp
    except ImportError:
        raise MissingExtra("language models need llama.cpp", expected="pip install 'onward[llm]'") from None
    threads = threads or os.cpu_count() or 1
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_ctx = context_tokens * slots
    parameters.n_parallel = slots
    parameters.n_batch = STEP_TOKENS
    parameters.n_ubatch = STEP_TOKENS
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = CACHE_MIB
    parameters.hostnames = [str(socket)]
    parameters.api_keys = [key]
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.verbosity = _SILENT
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise PackageError(f"llama.cpp cannot load the model: {error}", where=file.name) from None


def _body(text: str, sampling: Sampling, grammar: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": text,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "cache_prompt": True,
        "n_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repeat_penalty,
        "stop": list(sampling.stop),
        "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()],
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.logprobs is not None:
        body["n_probs"] = max(1, sampling.logprobs)
    if grammar:
        body["grammar"] = grammar
    return body


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _logprobs(found: Mapping[str, Any] | None, told: int | None) -> list[Mapping[str, Any]]:
    """Log-probabilities in OpenAI's form: without the engine's ids, with as many alternatives as were asked for."""
    if told is None or not found:
        return []
    return [
        _logprob(one) | {"top_logprobs": [_logprob(other) for other in one["top_logprobs"][:told]]}
        for one in found["content"]
    ]


def _logprob(one: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("token", "logprob", "bytes")}


def _told(error: Mapping[str, Any]) -> OnwardError:
    """An error of the engine's as ours: what is wrong with the request is the request's."""
    message = str(error.get("message", "it does not say why"))
    if error.get("type") == "exceed_context_size_error":
        expected = f"at most {error.get('n_ctx')} tokens, with the answer"
        found = f"{error.get('n_prompt_tokens')} tokens"
        return TooLarge("the prompt is too long for the model's context", expected=expected, found=found)
    if "grammar" in message.lower():
        return InputError(f"not a grammar: {message}", where="grammar", expected="GBNF with a rule named root")
    if error.get("code") == 400 or error.get("type") == "invalid_request_error":
        return InputError(message)
    _log.error("llama.cpp failed: %s", message)
    return ExecutionError(f"llama.cpp failed: {message}")
