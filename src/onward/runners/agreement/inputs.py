"""Inputs to compare runners by: a package's golden examples, and as many more as wanted, made of those.

Numbers and categories are mixed among the examples, texts are put together from their words, pictures cut from their
pictures: like what the model knows, and yet new.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from typing import Any

from onward.errors import PackageError
from onward.package.examples import read_examples
from onward.package.package import Package
from onward.types import Field, Item

_LEFT_OUT_SHARE = 0.05
_MOST_WORDS = 40
_LEAST_SHARE = 0.4


def inputs_of(package: Package, count: int, *, seed: int = 0) -> list[Item]:
    """The inputs of the golden examples and then others, `count` in all (or the examples, where those are more).

    Raises `PackageError` where a package has no examples.
    """
    known: list[Item] = [example.input for example in read_examples(package.folder)]
    if not known:
        raise PackageError("there are no golden examples to make inputs of", where=package.id.name)
    source = random.Random(seed)  # reproducible, no secret
    fields = package.manifest.inputs
    return known + [_made(fields, known, source) for _ in range(count - len(known))]


def as_json(item: Item) -> Mapping[str, Any]:
    """An item as JSON can hold it: files as base64."""
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in item.items()
    }


def _made(fields: Sequence[Field], known: Sequence[Item], source: random.Random) -> Item:
    item: dict[str, Any] = {}
    for field in fields:
        values = [one[field.name] for one in known if field.name in one]
        if not values or (not field.required and source.random() < _LEFT_OUT_SHARE):
            continue
        value = source.choice(values)
        if field.content == "image":
            value = _cut(value, source)
        elif field.datatype == "BYTES" and not field.categories and not field.shape and isinstance(value, str):
            value = _told(values, source) if _is_prose(field) else value
        item[field.name] = value
    return item


def _is_prose(field: Field) -> bool:
    return field.content == "text"


def _told(values: Sequence[str], source: random.Random) -> str:
    """A text from the words of all."""
    words = [word for value in values for word in value.split()] or [""]
    return " ".join(source.choice(words) for _ in range(source.randint(1, _MOST_WORDS)))


def _cut(encoded: bytes, source: random.Random) -> bytes:
    """A part of a picture, as a PNG or a JPEG file."""
    from PIL import Image

    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = (max(1, int(side * source.uniform(_LEAST_SHARE, 1))) for side in picture.size)
    left, top = source.randint(0, picture.width - width), source.randint(0, picture.height - height)
    stream = io.BytesIO()
    kind = source.choice(("PNG", "JPEG"))
    picture.crop((left, top, left + width, top + height)).save(stream, kind)
    return stream.getvalue()
