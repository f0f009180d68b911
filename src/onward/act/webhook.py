"""Actions as webhooks: a CloudEvents 1.0 event in structured JSON, signed, sent once over a connection of its own.

The signature follows the Standard Webhooks form: `webhook-signature: v1,BASE64` is the HMAC-SHA256 of
`WEBHOOK-ID.WEBHOOK-TIMESTAMP.BODY` under the secret; two secrets give two signatures, while one replaces the other.
`webhook-id` and `Idempotency-Key` are the action's idempotency key, the same at every try; so is the body.
No connection is kept open: one that the target closes just as we send would leave the outcome unknown for nothing.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import httpcore
import msgspec

from onward.act import crash
from onward.act.executor import MAX_RECEIPT_BYTES, Order, Outcome, Verdict, done, failed, not_sent, unknown
from onward.act.network import Deadline, Exchange, RefusedAddress, Resolve, resolve

_RETRY_WITHOUT_EFFECT = (408, 425, 429)
_MAX_ANSWER_BYTES = MAX_RECEIPT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where a webhook goes. `status_url` answers 200 (it happened; the body is the receipt) or 404 (it did not)."""

    url: str
    status_url: str = ""
    allow_private: bool = False
    timeout_s: float = 10.0
    ca_file: str = ""
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


def url_problem(url: str, *, allow_private: bool) -> str:
    """What is wrong with a target's URL, "" if nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not url.isascii():
        return "not an http(s) URL"
    if any(character.isspace() or ord(character) < 32 for character in url):
        return "not a URL"
    if parts.username is not None or parts.password is not None:
        return "a URL with credentials; use `headers_env`"
    if parts.fragment:
        return "a URL with a fragment"
    if parts.scheme == "http" and not allow_private:
        return "http:// without `allow_private = true`: only private addresses may be spoken to unencrypted"
    return ""


def event_of(order: Order) -> bytes:
    """The order as a CloudEvents 1.0 event. The same order always gives the same bytes."""
    event = {
        "specversion": "1.0",
        "id": order.idempotency_key,
        "source": f"/onward/{quote(order.package)}",
        "type": f"onward.action.{order.name}",
        "subject": order.action_id,
        "time": datetime.fromtimestamp(order.created_s, UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": msgspec.Raw(order.payload),
    }
    return msgspec.json.encode(event)


def secret_bytes(text: str) -> bytes:
    """A secret as it is written: `whsec_` and base64, or any other text as it is. Raises `ValueError`."""
    if text.startswith("whsec_"):
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    return text.encode()


def sign(secrets: tuple[bytes, ...], message_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` header: one `v1,BASE64` for each secret, separated by spaces."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    digests = [hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets]
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def verify(secret: bytes, headers: Mapping[str, str], body: bytes, *, now_s: float, tolerance_s: float = 300.0) -> bool:
    """What a receiver does: whether a signature is right and the timestamp recent. Header names are in lower case."""
    try:
        timestamp_s = int(headers["webhook-timestamp"])
        message_id, given = headers["webhook-id"], headers["webhook-signature"].split(" ")
    except (KeyError, ValueError):
        return False
    wanted = sign((secret,), message_id, timestamp_s, body)
    # Every signature is compared, in constant time.
    matches = [hmac.compare_digest(each.encode(), wanted.encode()) for each in given]
    return any(matches) and abs(now_s - timestamp_s) <= tolerance_s


class WebhookExecutor:
    """Sends orders to one URL."""

    def __init__(self, target: Webhook, *, resolver: Resolve = resolve, clock: Callable[[], float] = time.time) -> None:
        self._target = target
        self._resolve = resolver
        self._clock = clock
        self._tls: ssl.SSLContext | None = None
        if any(urlsplit(url).scheme == "https" for url in (target.url, target.status_url)):
            self._tls = ssl.create_default_context(cafile=target.ca_file or None)
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2

    @property
    def can_reconcile(self) -> bool:
        """Whether there is a status URL."""
        return bool(self._target.status_url)

    def execute(self, order: Order) -> Outcome:
        """POST the event. A 2xx answer is DONE; see `judge` for the rest."""
        body = event_of(order)
        timestamp_s = int(self._clock())
        headers = {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "Idempotency-Key": order.idempotency_key,
            "webhook-id": order.idempotency_key,
            "webhook-timestamp": str(timestamp_s),
        }
        if self._target.secrets:
            headers["webhook-signature"] = sign(self._target.secrets, order.idempotency_key, timestamp_s, body)
        return judge(self._request("POST", self._target.url, headers, body))

    def reconcile(self, order: Order) -> Outcome:
        """GET the status URL: 200 says it happened, 404 that it did not, anything else nothing."""
        context = {name: quote(value, safe="") for name, value in order.context.items()}
        answer = self._request("GET", self._target.status_url.format_map(context), {}, b"")
        if answer.status == 200 and answer.whole:
            return done(answer.body)
        if answer.status == 404:
            return not_sent("HTTP_404")
        return unknown(answer.error or f"HTTP_{answer.status}")

    def close(self) -> None:
        """Nothing is kept open."""

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        target, parts = self._target, urlsplit(url)
        exchange = Exchange(
            Deadline(target.timeout_s),
            allow_private=target.allow_private,
            only_private=parts.scheme == "http",
            resolver=self._resolve,
            on_send=lambda: crash.point("relay.sending") if method == "POST" else None,
        )
        host = parts.netloc
        all_headers = {"Host": host, "User-Agent": "onward", "Accept": "*/*", "Connection": "close"}
        all_headers |= {**dict(target.headers), **headers}
        all_headers |= {"Content-Length": str(len(body))} if method == "POST" else {}
        try:
            request = httpcore.Request(method, url, headers=list(all_headers.items()), content=body)
            connection = httpcore.HTTPConnection(
                request.url.origin, ssl_context=self._tls, network_backend=exchange, http2=False
            )
            try:
                return _read(connection.handle_request(request))
            finally:
                connection.close()
        except RefusedAddress:
            return Answer(error="ADDRESS_REFUSED", sent=exchange.sent)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            return Answer(error=_connect_code(error), sent=exchange.sent)
        except httpcore.TimeoutException:
            return Answer(error="TIMEOUT", sent=exchange.sent)
        except (httpcore.NetworkError, httpcore.ProtocolError):
            return Answer(error="CUT", sent=exchange.sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, or (`status` 0) why there is none. `whole`: the body is here in full."""

    status: int = 0
    body: bytes = b""
    whole: bool = False
    too_large: bool = False
    retry_after: str = ""
    error: str = ""
    sent: bool = True


def _read(response: httpcore.Response) -> Answer:
    """The answer, its body up to the bound; raises what the connection raises before the body."""
    crash.point("relay.sent")
    retry_after = next(
        (value.decode("latin-1") for name, value in response.headers if name.lower() == b"retry-after"), ""
    )
    body, whole, too_large = bytearray(), True, False
    try:
        assert not isinstance(response.stream, bytes)
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > _MAX_ANSWER_BYTES:
                too_large, whole = True, False
                break
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        whole = False
    return Answer(
        status=response.status,
        body=bytes(body) if whole else b"",
        whole=whole,
        too_large=too_large,
        retry_after=retry_after,
    )


def judge(answer: Answer) -> Outcome:
    """What an answer to a POST says about the action.

    2xx: it happened (an answer that breaks off says nothing). 408, 425, 429, and 503 with Retry-After: not now. Other
    4xx and redirects: never. Other 5xx come from programs that broke in the middle as well: nobody knows.
    """
    status, code = answer.status, f"HTTP_{answer.status}"
    if not status:
        if answer.sent:
            return unknown(answer.error)
        return failed(answer.error) if answer.error == "ADDRESS_REFUSED" else not_sent(answer.error)
    if 200 <= status < 300:
        if answer.whole:
            return done(answer.body)
        # The target has said yes, only at more length than we listen.
        return Outcome(verdict=Verdict.DONE, error="RECEIPT_TOO_LARGE") if answer.too_large else unknown("CUT")
    if status in _RETRY_WITHOUT_EFFECT or (status == 503 and answer.retry_after):
        return Outcome(verdict=Verdict.LATER, error=code, retry_after_s=retry_after_s(answer.retry_after))
    if 300 <= status < 500:
        return failed(code)
    return unknown(code)


def retry_after_s(value: str, *, now_s: float | None = None) -> float:
    """A Retry-After header in seconds: a number or an HTTP date; 0 for anything else."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), 10**6))
    try:
        at_s = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(at_s - (time.time() if now_s is None else now_s), 0.0)


def _connect_code(error: Exception) -> str:
    if isinstance(error, httpcore.ConnectTimeout):
        return "CONNECT_TIMEOUT"
    cause = error.__cause__ or error.__context__
    return "TLS_REFUSED" if isinstance(cause, ssl.SSLCertVerificationError) else "CONNECT_FAILED"
