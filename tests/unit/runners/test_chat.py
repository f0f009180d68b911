"""`onward chat --url`: what a server refuses is told with the code that fits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from onward.errors import InputError, NotFound, OnwardError, Unavailable
from onward.runners.chat import Remote


class Refusing(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"error": "because"}).encode()
        self.send_response(int(self.path[1:]))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InputError), (404, NotFound), (409, InputError), (429, Unavailable), (503, Unavailable)]
)
def test_what_a_server_refuses_has_the_exit_code_of_its_kind(url: str, status: int, kind: type[OnwardError]) -> None:
    with pytest.raises(kind, match=r"the server refused.*because") as refused:
        Remote(f"{url}/{status}").say("hi", "")
    assert type(refused.value) is kind
