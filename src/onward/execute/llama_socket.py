"""What llama.cpp is asked beside texts: how its chat template renders a chat, and how many tokens a text has.

Over the engine's own HTTP interface, bound to a Unix socket; requests take well under a millisecond.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onward.errors import ExecutionError, InputError

_TIMEOUT_S = 60.0
_MOST_KEPT, _LARGEST_KEPT = 32, 1 << 16
"""Chats whose text is remembered, and the bytes of the largest of them."""


class LlamaSocket:
    """Asks one engine, from any thread.

    Each question has a connection of its own: one that is kept open the engine looks at a hundred times a second, on
    the cores that its model needs.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Connection": "close"}
        self._lock = threading.Lock()
        self._rendered: OrderedDict[bytes, str] = OrderedDict()

    def rendered(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A chat as the model reads it, to where its answer begins. Raises `InputError` where the template cannot.

        A chat is rendered to be counted and again to be answered: the last ones are remembered.
        """
        asked = json.dumps({"messages": list(messages)}).encode()
        with self._lock:
            known = self._rendered.get(asked)
        if known is not None:
            return known
        text = str(self._ask("/apply-template", asked, where="messages")["prompt"])
        if len(asked) <= _LARGEST_KEPT:
            with self._lock:
                self._rendered[asked] = text
                if len(self._rendered) > _MOST_KEPT:
                    self._rendered.popitem(last=False)
        return text

    def count(self, text: str) -> int:
        """How many tokens a text has, with those that the model puts in front."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        return len(self._ask("/tokenize", json.dumps(asked).encode(), where="text")["tokens"])

    def _ask(self, path: str, body: bytes, *, where: str) -> Any:
        connection = _UnixConnection(self._path)
        try:
            connection.request("POST", path, body, self._headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ExecutionError(f"llama.cpp does not answer {path}: {error}") from None
        finally:
            connection.close()
        if answer.status >= 500 and path == "/apply-template":  # a template raises for a chat that it does not take
            raise InputError(f"the chat template refuses the messages: {_message(told)}", where=where)
        if answer.status != 200:
            raise ExecutionError(f"llama.cpp answers {path} with status {answer.status}: {_message(told)}")
        return told


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket of a path instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Without a timeout yet: one that has it is refused at once where many connect, instead of waiting its turn.
        self.sock.connect(str(self._path))
        self.sock.settimeout(_TIMEOUT_S)


def _message(told: Any) -> str:
    error = told.get("error") if isinstance(told, Mapping) else None
    return str(error.get("message", error))[:300] if isinstance(error, Mapping) else str(told)[:300]
