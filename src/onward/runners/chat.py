"""A conversation in the terminal: with a package here, or with one that a server serves.

`Local` is the whole of a conversation in one process: model, profile, policy, store, relay. Tests talk to it, too.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from rich.console import Console
from rich.markup import escape

from onward.act.desk import Desk, Ruling
from onward.act.relay import Relay, RelayOptions
from onward.act.targets import Targets, load_targets
from onward.decide.audit import note_erasure
from onward.decide.rules import Rules
from onward.dialogue.conversations import Conversations, Message, told_json
from onward.errors import InputError, NotFound, OnwardError, PackageError, Unavailable
from onward.generate.answer import readable
from onward.pipeline import Pipeline
from onward.runners.installation import open_keys, open_store
from onward.runners.local import find
from onward.store.profiles import Profiles
from onward.store.store import Store
from onward.store.writer import Writer

_TIMEOUT_S = 30.0
_RELAY_STOP_S = 10.0
_STATES = {
    "done": "[green]done[/]", "waiting": "[yellow]waits for approval[/]", "dead": "[red]failed[/]",
    "denied": "[red]denied[/]", "refused": "[red]refused[/]",
}  # fmt: skip


class Partner(Protocol):
    """Who answers: here or on a server."""

    def say(self, text: str, conversation: str) -> Mapping[str, Any]:
        """The reply to a message, as `POST /models/{name}` answers it. Raises `OnwardError`."""
        ...


class Local:
    """A dialogue package in this process, with a store and a relay of its own. Close it at the end."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        *,
        store_url: str = "memory:",
        targets: Targets | None = None,
        key_file: Path | None = None,
        customer: str = "",
        wait_s: float = 2.0,
    ) -> None:
        """Raises `PackageError` where the package has no dialogue or no policy."""
        dialogue = pipeline.dialogue
        if dialogue is None or not isinstance(pipeline.policy, Rules):
            expected = "a package with dialogue.toml and policy.toml"
            raise PackageError(
                "nobody can talk with this package", where=pipeline.manifest.package.name, expected=expected
            )
        self.customer = customer
        self.tenant = "default"
        self._pipeline = pipeline
        self._fields = {field.name for field in pipeline.manifest.inputs}
        keys = open_keys(store_url, key_file)
        self.store, self.writer = store, Writer(store)
        self.profiles = Profiles(store, self.writer, note_erasure=note_erasure)
        targets = targets or Targets.none()
        self.relay = Relay(store, targets, keys=keys, writer=self.writer, options=RelayOptions(poll_s=0.05))
        self.relay.start()
        ruling = Ruling(package=pipeline.package.id, rules=pipeline.policy, fields=frozenset(self._fields))
        desk = Desk(self.writer, keys, targets)
        self.conversations = Conversations(
            dialogue, ruling, desk, store, self.writer, keys=keys, wake=self.relay.wake, wait_s=wait_s
        )  # fmt: skip

    def say(self, text: str, conversation: str) -> dict[str, Any]:
        """See `Partner`."""
        bounded = self.conversations.dialogue.bounded(text)
        item = {"text": bounded} | ({"customer": self.customer} if self.customer else {})
        answer, failure = None, ""
        try:
            answer = readable(self._pipeline({name: value for name, value in item.items() if name in self._fields}))
        except OnwardError as error:
            failure = error.code
        message = Message(text=text, customer=self.customer, conversation=conversation, tenant=self.tenant)
        told = self.conversations.say(message, answer, self.profile(), failure=failure)
        package = self._pipeline.package.id
        return told_json(self.conversations.dialogue, told) | {"package": package.name, "version": package.version}

    def profile(self) -> dict[str, Any]:
        """What is known of the customer."""
        features = self._pipeline.prepare.features
        return {} if features is None else self.profiles.read(self.tenant, self.customer, features)

    def close(self) -> None:
        """Stop the relay and write what waits."""
        self.relay.stop(_RELAY_STOP_S)
        self.writer.close()


class Remote:
    """A dialogue package on a server: `url` is that of `POST /models/{name}`."""

    def __init__(self, url: str, *, customer: str = "") -> None:
        self._url = url
        self._customer = customer

    def say(self, text: str, conversation: str) -> Mapping[str, Any]:
        """See `Partner`."""
        body: dict[str, str] = {"text": text}
        body |= {"customer": self._customer} if self._customer else {}
        body |= {"conversation": conversation} if conversation else {}
        request = urllib.request.Request(
            self._url, msgspec.json.encode(body), {"content-type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                answer: Mapping[str, Any] = msgspec.json.decode(response.read())
                return answer
        except urllib.error.HTTPError as error:
            refused = NotFound if error.code == 404 else InputError if 400 <= error.code < 429 else Unavailable
            with error:
                raise refused("the server refused", where=self._url, found=_said(error.read())) from None
        except (OSError, msgspec.DecodeError) as error:
            raise Unavailable("the server did not answer", where=self._url, found=str(error)) from None


def _said(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


@contextmanager
def partner(
    package: str, *, url: str, customer: str, store: str, actions: Path | None, key_file: Path | None
) -> Iterator[Partner]:
    """Who is to be talked to: a package's name or path here, or with `url` the package of that name on a server."""
    if url:
        yield Remote(f"{url.rstrip('/')}/models/{quote(package, safe='')}", customer=customer)
        return
    with ExitStack() as stack:
        pipeline = stack.enter_context(Pipeline.open(find(package), check=False))
        opened = stack.enter_context(open_store(store, make=True))
        targets = load_targets(actions) if actions else None
        local = Local(pipeline, opened, store_url=store, targets=targets, key_file=key_file, customer=customer)
        stack.callback(local.close)
        yield local


def chat(
    package: str,
    *,
    url: str = "",
    customer: str = "",
    conversation: str = "",
    store: str,
    actions: Path | None = None,
    key_file: Path | None = None,
    as_json: bool = False,
) -> None:
    """Talk until the end of the input. In a terminal with prompts; else a line in, a JSON line out."""
    is_person = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    console = Console(highlight=False)
    with partner(package, url=url, customer=customer, store=store, actions=actions, key_file=key_file) as other:
        if is_person:
            who = f"as [bold]{escape(customer)}[/]" if customer else "not signed in (--customer NAME)"
            console.print(f"[bold]{escape(package)}[/]  [dim]{who} · Ctrl-D ends it[/]")
        for line in _lines(is_person, console):
            answer = other.say(line, conversation)
            conversation = str(answer.get("conversation", conversation))
            if is_person:
                _show(console, answer)
            else:
                sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
                sys.stdout.buffer.flush()


def _lines(is_person: bool, console: Console) -> Iterator[str]:
    while True:
        try:
            line = console.input("[bold cyan]you[/]  ") if is_person else sys.stdin.readline()
        except EOFError:
            console.print()
            return
        if not is_person and not line:
            return
        if line.strip():
            yield line.strip()


def _show(console: Console, answer: Mapping[str, Any]) -> None:
    """A reply, and under it what was decided and done."""
    indented = str(answer.get("reply", "")).replace("\n", "\n     ")
    console.print(f"[bold green]bot[/]  {escape(indented)}", soft_wrap=True)
    decision = answer.get("decision") or {}
    marks = [escape(str(decision.get("outcome", "")))]
    marks += [
        f"{escape(str(each['name']))} {_STATES.get(str(each['state']), escape(str(each['state'])))}"
        for each in answer.get("actions") or ()
    ]
    console.print(f"     [dim]{' · '.join(filter(None, marks))}[/]")
