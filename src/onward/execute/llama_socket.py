"""What llama.cpp is asked beside texts: how its chat template renders a chat, and how many tokens a text has.

Over the engine's own HTTP interface, bound to a Unix socket; requests take well under a millisecond.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onward.errors import ExecutionError, InputError

_TIMEOUT_S = 60.0


class LlamaSocket:
    """A connection to one engine, kept open, for any thread."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None

    def rendered(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A chat as the model reads it, to where its answer begins. Raises `InputError` where the template cannot."""
        return str(self._ask("/apply-template", {"messages": list(messages)}, where="messages")["prompt"])

    def count(self, text: str) -> int:
        """How many tokens a text has, with those that the model puts in front."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        return len(self._ask("/tokenize", asked, where="text")["tokens"])

    def close(self) -> None:
        """Close the connection; idempotent."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _ask(self, path: str, body: Mapping[str, Any], *, where: str) -> Any:
        data = json.dumps(body).encode()
        with self._lock:
            status, answer = self._sent(path, data)
        told = json.loads(answer)
        if status >= 500 and path == "/apply-template":  # a template raises for a chat that it does not take
            raise InputError(f"the chat template refuses the messages: {_message(told)}", where=where)
        if status != 200:
            raise ExecutionError(f"llama.cpp answers {path} with status {status}: {_message(told)}")
        return told

    def _sent(self, path: str, data: bytes) -> tuple[int, bytes]:
        for attempt in range(2):
            if self._connection is None:
                self._connection = _UnixConnection(self._path)
            try:
                self._connection.request("POST", path, data, self._headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                # The engine closes connections that were idle for long; the next one is new.
                self._connection.close()
                self._connection = None
                if attempt:
                    raise ExecutionError(f"llama.cpp does not answer: {error}") from None
        raise AssertionError("unreachable")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket of a path instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


def _message(told: Any) -> str:
    error = told.get("error") if isinstance(told, Mapping) else None
    return str(error.get("message", error))[:300] if isinstance(error, Mapping) else str(told)[:300]
