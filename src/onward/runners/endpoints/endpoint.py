"""One of two endpoints: which bytes ask it what a recorded request asks, and what its answer says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from onward.errors import SourceUnreachable, UsageError
from onward.runners.endpoints.forms import (
    Form,
    Tensors,
    answer_of,
    as_items,
    as_v2,
    form_of,
    renamed_items,
    renamed_v2,
    tensors_of,
)
from onward.runners.endpoints.recorded import Recorded
from onward.runners.load.connection import Client, Place, message, place_of

_JSON = "application/json"


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """Where one side is, and what it calls things: `inputs` and `outputs` map the file's names to this side's.

    A URL with a path answers every request there; one without, each at its own recorded path.
    """

    label: str
    place: Place
    headers: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    _known: dict[str, Tensors] = field(default_factory=dict)

    @classmethod
    def at(
        cls, label: str, url: str, headers: Sequence[str] = (), *, inputs: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> Endpoint:  # fmt: skip
        """The endpoint at a URL, asked with headers that are written `Name: value`. Raises `UsageError`."""
        split = [one.partition(":") for one in headers]
        if any(not (name.strip() and colon) for name, colon, _ in split):
            raise UsageError("not a header", where=f"--{label}-header", expected="Name: value")
        sent = {name.strip().lower(): value.strip() for name, _, value in split}
        place = place_of(url, where=f"{label.upper()}_URL")
        return cls(label=label, place=place, headers=sent, inputs=inputs or {}, outputs=outputs or {})

    def path(self, request: Recorded) -> str:
        """The path that answers a request. Raises `UsageError` where neither URL nor line names one."""
        path = self.place.path or request.path
        if not path:
            raise UsageError(
                "which path is to be asked?", where=f"{self.label.upper()}_URL",
                expected="a URL with the model's path, such as /v2/models/NAME/infer", found=f"line {request.line}",
            )  # fmt: skip
        return path

    def form(self, request: Recorded) -> Form:
        """The form in which a request is answered here."""
        return form_of(self.path(request))

    async def message(self, request: Recorded, client: Client) -> bytes:
        """The bytes that ask this endpoint what the request asks. Raises `MalformedBody` or `WrongShape`."""
        path, headers = self.path(request), {**request.headers, **self.headers}
        if request.raw is not None:
            return message(self.place, request.method, path, headers, request.raw)
        value = await self._body(request, path, client)
        return message(self.place, request.method, path, {"content-type": _JSON} | headers, msgspec.json.encode(value))

    async def _body(self, request: Recorded, path: str, client: Client) -> Any:
        v2 = form_of(path) == "v2"
        if request.is_v2:
            if v2:
                return renamed_v2(request.value, self.inputs, self.outputs)
            return as_items(request.value, self.inputs)
        if not v2:
            return renamed_items(request.value, self.inputs)
        return as_v2(request.value, self.inputs, await self._tensors(path, client), where=f"line {request.line}")

    async def _tensors(self, path: str, client: Client) -> Tensors:
        """The inputs by the endpoint's own metadata, asked for once."""
        where = path.partition("?")[0].removesuffix("/infer")
        if where not in self._known:
            reply = await client.ask(message(self.place, "GET", where, {"accept": _JSON} | dict(self.headers), b""))
            if reply.status != 200:
                raise SourceUnreachable(
                    "the model's metadata cannot be had, which says the datatypes of V2 inputs",
                    where=f"{self.label} {where}", expected="status 200",
                    found=str(reply.status or reply.body.decode("utf-8", "replace")),
                )  # fmt: skip
            self._known[where] = tensors_of(msgspec.json.decode(reply.body))
        return self._known[where]

    def answer(self, request: Recorded, body: bytes, *, by_value: bool) -> Any:
        """What an answer says, without its envelope. Raises `MalformedBody`."""
        return answer_of(self.form(request), body, by_value=by_value)
