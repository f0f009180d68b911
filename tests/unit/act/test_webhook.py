"""Webhooks: what is sent, where it may go, and what every kind of answer says about the action."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from onward.act.executor import Outcome, Verdict
from onward.act.webhook import (
    Webhook,
    WebhookExecutor,
    event_of,
    retry_after_s,
    secret_bytes,
    sign,
    url_problem,
    verify,
)
from tests.unit.act.outboxes import order, webhook
from tests.unit.act.receiver import Receiver


def sent(receiver: Receiver, behaviour: str, **settings: object) -> Outcome:
    receiver.behave = lambda count: behaviour
    return WebhookExecutor(webhook(receiver, **settings)).execute(order(card="c1"))


def test_an_order_is_one_cloud_event_with_the_key_and_a_signature_that_verifies(receiver: Receiver) -> None:
    outcome = sent(receiver, "ok")
    assert (outcome.verdict, outcome.receipt) == (Verdict.DONE, b'{"number": 1}')
    [request] = receiver.received
    event = json.loads(request.body)
    assert (event["specversion"], event["type"], event["source"]) == ("1.0", "onward.action.hold", "/onward/fraud")
    assert event["data"]["arguments"] == {"card": "c1"}
    assert event["time"] == "2023-11-14T22:13:20.250000Z"
    assert request.headers["content-type"].startswith("application/cloudevents+json")
    key = request.headers["idempotency-key"]
    assert key == request.headers["webhook-id"] == event["id"] == "d1:hold:0"
    assert verify(b"s3cret", request.headers, request.body, now_s=time.time())
    signed = f"{key}.{request.headers['webhook-timestamp']}.".encode() + request.body
    wanted = base64.b64encode(hmac.new(b"s3cret", signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{wanted}"


@pytest.mark.parametrize("change", ["body", "secret", "id", "old", "none"])
def test_a_changed_or_old_message_does_not_verify(receiver: Receiver, change: str) -> None:
    sent(receiver, "ok")
    [request] = receiver.received
    headers, body, secret, now_s = dict(request.headers), request.body, b"s3cret", time.time()
    match change:
        case "body":
            body = body.replace(b"c1", b"c2")
        case "secret":
            secret = b"other"
        case "id":
            headers["webhook-id"] = "d2:hold:0"
        case "old":
            now_s += 301
        case "none":
            del headers["webhook-signature"]
    assert not verify(secret, headers, body, now_s=now_s)


def test_two_secrets_give_two_signatures_so_that_one_can_replace_the_other() -> None:
    header = sign((b"old", b"new"), "m", 10, b"{}")
    headers = {"webhook-id": "m", "webhook-timestamp": "10", "webhook-signature": header}
    assert verify(b"old", headers, b"{}", now_s=10) and verify(b"new", headers, b"{}", now_s=10)


def test_the_published_example_of_standard_webhooks_gives_its_signature() -> None:
    secret = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert sign((secret,), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_the_same_order_gives_the_same_bytes_at_every_try(receiver: Receiver) -> None:
    assert event_of(order(card="c1")) == event_of(order(card="c1"))


@pytest.mark.parametrize(
    ("behaviour", "verdict", "error"),
    [
        ("cut before", Verdict.UNKNOWN, "CUT"),
        ("cut during", Verdict.UNKNOWN, "CUT"),
        ("cut after", Verdict.UNKNOWN, "CUT"),
        ("slow", Verdict.UNKNOWN, "TIMEOUT"),
        ("500", Verdict.UNKNOWN, "HTTP_500"),
        ("502", Verdict.UNKNOWN, "HTTP_502"),
        ("503", Verdict.UNKNOWN, "HTTP_503"),
        ("503 later", Verdict.LATER, "HTTP_503"),
        ("429", Verdict.LATER, "HTTP_429"),
        ("400", Verdict.FAILED, "HTTP_400"),
        ("422", Verdict.FAILED, "HTTP_422"),
        ("redirect", Verdict.FAILED, "HTTP_307"),
        ("large", Verdict.DONE, "RECEIPT_TOO_LARGE"),
        ("endless headers", Verdict.UNKNOWN, "CUT"),
    ],
)
def test_every_kind_of_answer_says_no_more_than_it_proves(
    receiver: Receiver, behaviour: str, verdict: Verdict, error: str
) -> None:
    outcome = sent(receiver, behaviour, timeout_s=0.5)
    assert (outcome.verdict, outcome.error) == (verdict, error)
    assert outcome.retry_after_s == (7.0 if behaviour == "503 later" else 0.0)
    assert len(receiver.received) == 1


def test_an_answer_that_drips_ends_at_the_deadline(receiver: Receiver) -> None:
    begun_s = time.monotonic()
    outcome = sent(receiver, "drip", timeout_s=0.4)
    assert outcome.verdict is Verdict.UNKNOWN
    assert time.monotonic() - begun_s < 2.0


def test_a_target_that_is_not_there_was_certainly_not_sent_to(receiver: Receiver) -> None:
    target = webhook(receiver)
    receiver.close()
    outcome = WebhookExecutor(target).execute(order())
    assert (outcome.verdict, outcome.error) == (Verdict.NOT_SENT, "CONNECT_FAILED")


def test_the_status_query_tells_what_happened_from_what_did_not_and_from_what_it_cannot_tell(
    receiver: Receiver,
) -> None:
    executor = WebhookExecutor(webhook(receiver))
    assert executor.reconcile(order()).verdict is Verdict.NOT_SENT
    executor.execute(order())
    assert executor.reconcile(order()) == Outcome(verdict=Verdict.DONE, receipt=b'{"number": 1}')
    receiver.status_up = False
    assert executor.reconcile(order()).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::1]", "0.0.0.0"])
def test_nothing_is_sent_to_this_machine_however_it_is_written(receiver: Receiver, host: str) -> None:
    port = receiver.server.server_address[1]
    target = Webhook(url=f"https://{host}:{port}/do", timeout_s=2.0)
    outcome = WebhookExecutor(target).execute(order())
    assert outcome.verdict in (Verdict.FAILED, Verdict.NOT_SENT)
    assert outcome.error in ("ADDRESS_REFUSED", "CONNECT_FAILED")
    assert not receiver.received


def test_a_name_that_leads_elsewhere_the_second_time_is_not_looked_up_a_second_time(receiver: Receiver) -> None:
    port = receiver.server.server_address[1]
    answers = [["169.254.169.254"], ["127.0.0.1"], ["127.0.0.1"]]
    calls: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        calls.append(host)
        return answers[len(calls) - 1]

    target = Webhook(url=f"http://rebind.example:{port}/do", allow_private=True, timeout_s=2.0)
    outcome = WebhookExecutor(target, resolver=rebinding).execute(order())
    assert (outcome.verdict, outcome.error, calls) == (Verdict.FAILED, "ADDRESS_REFUSED", ["rebind.example"])
    assert not receiver.received


def test_a_public_name_with_a_private_address_among_others_gets_only_the_public_one(receiver: Receiver) -> None:
    port = receiver.server.server_address[1]
    target = Webhook(url=f"https://mixed.example:{port}/do", timeout_s=0.5)
    outcome = WebhookExecutor(target, resolver=lambda host, port: ["127.0.0.1", "10.0.0.1"]).execute(order())
    assert outcome.error == "ADDRESS_REFUSED"
    assert not receiver.received


def test_unencrypted_traffic_does_not_leave_the_private_network(receiver: Receiver) -> None:
    target = Webhook(url="http://public.example/do", allow_private=True, timeout_s=0.5)
    outcome = WebhookExecutor(target, resolver=lambda host, port: ["93.184.216.34"]).execute(order())
    assert outcome.error == "ADDRESS_REFUSED"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://example.com/a", ""),
        ("http://10.0.0.1/a", "http:// without"),
        ("ftp://example.com/a", "not an http(s) URL"),
        ("https://user:word@example.com/", "credentials"),
        ("https:///a", "not an http(s) URL"),
        ("https://example.com:99999/", "not a URL"),
        ("https://example.com/a\r\nX: y", "not a URL"),
        ("https://exämple.com/", "not an http(s) URL"),
        ("file:///etc/passwd", "not an http(s) URL"),
    ],
)
def test_only_plain_https_urls_pass(url: str, problem: str) -> None:
    found = url_problem(url, allow_private=False)
    assert problem in found and bool(problem) == bool(found)


def test_retry_after_is_read_as_seconds_or_as_a_date_and_never_raises() -> None:
    assert retry_after_s("30") == 30.0
    assert retry_after_s("Thu, 01 Jan 1970 00:01:40 GMT", now_s=40.0) == 60.0
    for text in ("", "-5", "soon", "9" * 400, "\x00", "١٢"):
        assert 0.0 <= retry_after_s(text) <= 10**6


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def secure(receiver: Receiver, certificate: Path) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    yield receiver


def test_tls_is_verified_against_the_host_and_its_authority(secure: Receiver, certificate: Path) -> None:
    port = secure.server.server_address[1]

    def to(host: str, ca_file: str) -> Outcome:
        url = f"https://{host}:{port}/do"
        return WebhookExecutor(Webhook(url=url, allow_private=True, ca_file=ca_file, timeout_s=3.0)).execute(order())

    assert to("localhost", str(certificate / "cert.pem")).verdict is Verdict.DONE
    assert to("localhost", "").error == "TLS_REFUSED"
    other = to("127.0.0.1", str(certificate / "cert.pem"))
    assert (other.verdict, other.error) == (Verdict.NOT_SENT, "TLS_REFUSED")
    assert len(secure.received) == 1


def test_secrets_stand_in_no_repr(receiver: Receiver) -> None:
    assert "s3cret" not in repr(webhook(receiver, headers=(("Authorization", "Bearer s3cret"),)))


def test_executors_may_be_called_from_several_threads(receiver: Receiver) -> None:
    executor = WebhookExecutor(webhook(receiver))
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda n=n: outcomes.append(executor.execute(order(decision=f"d{n}"))))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.verdict for outcome in outcomes] == [Verdict.DONE] * 8
    assert sum(receiver.effects.values()) == 8
