"""A package with a policy, a service that its actions go to, and where a server keeps its decisions."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import httpx

from onward.package.assembly import assemble
from onward.testing import tiny_package

# y = 2x + 1: x = [10, 0, 0] is declined, [1, 0, 0] approved, [0, 10, 0] refunded.
POLICY = """format = 1
[policy]
name = "tiny"
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
[[rule]]
name = "large"
when = "result.y[0] > 10.0"
outcome = "decline"
reasons = ["LARGE"]
arguments = { amount = "result.y[0]" }
[[rule.action]]
name = "hold"
arguments = { amount = "result.y[0]", card = "has(input.card) ? input.card : 'none'" }
[[rule]]
name = "second"
when = "result.y[1] > 10.0"
outcome = "refund"
reasons = ["SECOND"]
[[rule.action]]
name = "pay"
arguments = { amount = "result.y[1]" }
[[rule]]
name = "third"
when = "result.y[2] > 10.0"
outcome = "route:nobody"
reasons = ["THIRD"]
[[rule.action]]
name = "nobody"
arguments = {}
[[cap]]
outcome = "refund"
at_most = 20
per_s = 3600
otherwise = { outcome = "review", reasons = ["RATE_CAP"] }
[[action]]
name = "hold"
approval = "arguments.amount > 100.0"
[action.arguments]
amount = { type = "number", minimum = 0, maximum = 10000 }
card = { type = "string", max_length = 40 }
[[action]]
name = "pay"
[action.arguments]
amount = { type = "number", minimum = 0, maximum = 10000 }
[[action]]
name = "nobody"
[[test]]
name = "a large one is declined"
result = { y = [11.0, 0.0, 0.0] }
input = { x = [5.0, 0.0, 0.0] }
expect = { outcome = "decline", actions = [{ name = "hold", arguments = { amount = 11.0 } }] }
"""
CARD = """
[[input]]
name = "card"
datatype = "BYTES"
required = false
private = true

[profile]
entity = "card"
"""
LARGE, SMALL, SECOND, THIRD = [10.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]


class Target:
    """A service that does what it is told, once for each idempotency key, and can say afterwards whether it did."""

    def __init__(self) -> None:
        self.effects: list[dict[str, Any]] = []
        self.posts: Counter[str] = Counter()
        self.delay_s = 0.0
        self._lock = threading.Lock()
        target = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["content-length"])))
                key = self.headers["idempotency-key"]
                time.sleep(target.delay_s)
                with target._lock:
                    target.posts[key] += 1
                    if target.posts[key] == 1:
                        target.effects.append(event["data"] | {"key": key})
                self._answer(200, {"held": True})

            def do_GET(self) -> None:
                known = target.posts[self.path.rpartition("/")[2].replace("%3A", ":")]
                self._answer(200 if known else 404, {})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def of(self, decision_id: str) -> list[dict[str, Any]]:
        """What was done for a decision."""
        with self._lock:
            return [effect for effect in self.effects if effect["decision_id"] == decision_id]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def write_package(folder: Path, policy: str = POLICY) -> None:
    tiny_package(folder, lock=False)
    manifest = folder / "onward.toml"
    manifest.write_text(manifest.read_text("utf-8").replace("\n[[output]]", f"{CARD}\n[[output]]", 1), "utf-8")
    (folder / "policy.toml").write_text(policy, "utf-8")
    assemble(folder)


class Place:
    """Where one installation keeps its things, and the options that say so."""

    def __init__(self, folder: Path, target: Target, *, url: str = "") -> None:
        self.store = folder / "var" / "onward.db"
        actions = folder / "actions.toml"
        actions.write_text("format = 1\n" + "".join(target_toml(name, target) for name in ("hold", "pay")), "utf-8")
        self.options = ("--store", url or f"sqlite:///{self.store}", "--actions", str(actions))
        self.options += ("--key-file", str(folder / "key"))


def target_toml(name: str, target: Target) -> str:
    return (
        f'[[target]]\naction = "{name}"\npackages = ["tiny"]\nkind = "webhook"\nurl = "{target.url}/{name}"\n'
        f'status_url = "{target.url}/effects/{{idempotency_key}}"\nallow_private = true\ntimeout_s = 5\n'
        "reconcile_after_s = 0.1\nbackoff_s = 0.1\n"
    )


def asked(client: httpx.Client, x: list[float], headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    response = client.post("/models/tiny", json={"x": x, **fields}, headers=headers)
    assert response.status_code == 200, response.text
    return cast(dict[str, Any], response.json())


def settled(client: httpx.Client, decision_id: str, **headers: str) -> dict[str, Any]:
    response = client.get(f"/decisions/{decision_id}", params={"wait_s": "10"}, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["settled"], response.json()
    return cast(dict[str, Any], response.json())


def until(holds: Callable[[], bool], within_s: float = 15.0) -> None:
    give_up_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_s, "it did not come true"
        time.sleep(0.02)


def audit(admin: httpx.Client) -> list[dict[str, Any]]:
    return cast(list[dict[str, Any]], admin.get("/admin/audit", params={"after": 0, "limit": 1000}).json()["entries"])
