"""`POST /models/{name}`: what people have (JSON fields, text, an image) as items, and results as what they read.

Knows nothing of sockets, queues or batches.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec

from onward.errors import MalformedBody, TooLarge, UnsupportedMedia, WrongDatatype
from onward.generate.answer import readable as readable
from onward.generate.answer import readable_decision as readable_decision
from onward.types import Field, Item

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One plain request: its items, whether they came as a list, and the outputs asked for besides."""

    items: Sequence[Item]
    many: bool
    outputs: tuple[str, ...]


def requested_outputs(query: bytes) -> tuple[str, ...]:
    """The names in `?outputs=a,b`."""
    if not query:
        return ()
    values = parse_qs(query.decode("latin-1")).get("outputs", [])
    return tuple(name for value in values for name in value.split(",") if name)


def read_items(
    content_type: str, body: bytes | bytearray, fields: Sequence[Field], *, max_rows: int
) -> tuple[list[Item], bool]:
    """The items of a body and whether it was a list of them."""
    media_type = content_type.partition(";")[0].strip().lower()
    # curl -d says that JSON is a web form; no form of a browser begins with a bracket.
    is_curl = media_type == "application/x-www-form-urlencoded" and body[:1] in (b"{", b"[")
    if media_type in ("application/json", "") or media_type.endswith("+json") or is_curl:
        return _items_of_json(body, fields, max_rows)
    kind = media_type.partition("/")[0]
    wanted = {"text": ("text", "chat"), "image": ("image",), "audio": ("audio",)}.get(kind, ())
    field = next((field for field in fields if field.content in wanted), None)
    if field is None:
        raise UnsupportedMedia(where="Content-Type", expected=accepted_media(fields), found=media_type)
    if kind != "text":
        return [{field.name: bytes(body)}], False
    return [{field.name: decode_text(body, content_type)}], False


def decode_text(body: bytes | bytearray, content_type: str) -> str:
    """A text body in the charset of its Content-Type (UTF-8 unless it says otherwise)."""
    charset = "utf-8"
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "charset":
            charset = value.strip("\"' ")
    try:
        return bytes(body).decode(charset)
    except (UnicodeDecodeError, LookupError) as error:
        raise MalformedBody(where="body", expected=f"text in {charset}", found=str(error)) from None


def accepted_media(fields: Sequence[Field]) -> str:
    """The media types that a package takes, for an error."""
    media = ["application/json"]
    contents = {field.content for field in fields}
    contents |= {"text"} if "chat" in contents else set()
    media += [f"{kind}/*" for kind in ("text", "image", "audio") if kind in contents]
    if contents & {"image", "audio"}:
        media.append("multipart/form-data")
    return ", ".join(media)


def _items_of_json(body: bytes | bytearray, fields: Sequence[Field], max_rows: int) -> tuple[list[Item], bool]:
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(where="body", expected="JSON", found=str(error)) from None
    values = value if isinstance(value, list) else [value]
    if len(values) > max_rows:
        raise TooLarge(where="body", expected=f"at most {max_rows} items", found=f"{len(values)} items")
    if not values:
        raise MalformedBody(where="body", expected="at least one item", found="an empty list")
    return [_item(value, fields) for value in values], isinstance(value, list)


def _item(value: Any, fields: Sequence[Field]) -> Item:
    if not isinstance(value, dict):
        raise MalformedBody(
            where="body", expected=f"an object with {', '.join(field.name for field in fields[:12])}",
            found=type(value).__name__,
        )  # fmt: skip
    media = {field.name for field in fields if field.content in ("image", "audio")}
    return {name: _decode_base64(name, part) if name in media else part for name, part in value.items()}


def _decode_base64(name: str, value: Any) -> bytes:
    """Files inside JSON travel as base64, bare or as a data URL."""
    if not isinstance(value, str):
        raise WrongDatatype(where=name, expected="a file as base64 text", found=type(value).__name__)
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedBody(where=name, expected="base64", found=str(error)) from None
