"""Sends payments to a server as they happened: first what their card has been through, then the payment itself.

Payments of one card go one after the other; those of different cards share a few connections.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gallery.fraud.stream.past import Past
from gallery.fraud.stream.simulation import Payment

CONNECTIONS = 8
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What the server made of a payment. `latency_s` is that of the payment's request alone, measured here."""

    payment: Payment
    entity: str
    probability: float
    unusual: bool
    outcome: str
    rule: str
    decision_id: str
    actions: tuple[str, ...]
    latency_s: float
    past_s: float


class ReplayError(Exception):
    """The server did not take something; the text says what."""


class Replay:
    """One replay against one server."""

    def __init__(self, url: str, *, connections: int = CONNECTIONS, run: str = "replay") -> None:
        """`run` tells this replay's idempotency keys from another's."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._connections = connections
        self._run = run
        self._past = Past()
        self._failure: BaseException | None = None

    def run(self, payments: Iterable[Payment], *, speed: float, tell: Callable[[Decided], None]) -> None:
        """Send them all. `speed`: times as fast as they happened, 0 as fast as it goes. `tell` is called under a lock.

        Raises `ReplayError` or `OSError` where the server fails; nothing is sent after that.
        """
        lanes: list[list[Payment]] = [[] for _ in range(self._connections)]
        for payment in payments:
            lanes[zlib.crc32(payment.card.encode()) % self._connections].append(payment)
        first_s = min((lane[0].time_s for lane in lanes if lane), default=0.0)
        started_s, lock = time.monotonic(), threading.Lock()

        def send(lane: list[Payment]) -> None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
            try:
                for payment in lane:
                    if speed:
                        due_s = started_s + (payment.time_s - first_s) / speed
                        time.sleep(max(0.0, due_s - time.monotonic()))
                    if self._failure is not None:
                        return
                    decided = self._one(connection, payment)
                    with lock:
                        tell(decided)
            except BaseException as failure:
                self._failure = failure
            finally:
                connection.close()

        threads = [threading.Thread(target=send, args=(lane,), daemon=True) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _one(self, connection: http.client.HTTPConnection, payment: Payment) -> Decided:
        entity, begun_s = self._past.entity(payment), time.perf_counter()
        events = self._past.events(payment, time.time())
        if events:
            _post(connection, f"/profiles/{entity}/events", events)
        asked_s = time.perf_counter()
        body = {**payment.fields, "card": entity, "merchant": payment.merchant}
        key = f"{self._run}-{payment.row}"
        answered = _post(connection, "/models/fraud", body, {"idempotency-key": key})
        done_s = time.perf_counter()
        answer, decision = answered["answer"], answered["decision"]
        actions = tuple(action["name"] for action in decision["actions"])
        self._past.note(payment, held="hold" in actions)
        return Decided(
            payment=payment, entity=entity, probability=answer["probability"], unusual=answer["unusual"],
            outcome=decision["outcome"], rule=decision["rule"], decision_id=decision["decision_id"], actions=actions,
            latency_s=done_s - asked_s, past_s=asked_s - begun_s,
        )  # fmt: skip


def _post(
    connection: http.client.HTTPConnection, path: str, body: Any, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    sent = {"content-type": "application/json", **(headers or {})}
    connection.request("POST", path, json.dumps(body), sent)
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise ReplayError(f"POST {path}: {response.status} {text[:300].decode('utf-8', 'replace')}")
    answer: dict[str, Any] = json.loads(text)
    return answer
