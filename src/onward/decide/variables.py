"""The names that a policy may read, with their types, and how a fact becomes a value of its declared type.

A value never depends on the route that a fact took: what JSON made of it is brought to the declared type here.
What is missing, null, not finite, too large or of another type is *missing*: a rule that reads it anyway fails, and
the decision is then the fallback.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from onward.package.records import Catalogue, Entities, Labels, Manifest, Named
from onward.types import Field, Signature

MAX_TEXT = 16_384
"""Characters of one text, or of all texts in one list, that a rule may read."""
MAX_ELEMENTS = 1024
"""Elements of one list or map that a rule may read."""
MAX_DEPTH = 8
_FILE = frozenset({"sha256", "size"})

MISSING: Any = object()
Converter: TypeAlias = Callable[[Any], Any]

_WORDS = ("number", "integer", "boolean", "string", "any")
_WRITTEN = re.compile(r"(list|map)\((.*)\)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNWRITABLE = frozenset({"true", "false", "null", "in"})


@dataclass(frozen=True, slots=True)
class ValueType:
    """A type as policies name it: `number`, `integer`, `boolean`, `string`, `any`, `list(…)`, `map(…)`, `timestamp`."""

    word: str
    element: ValueType | None = None

    def __str__(self) -> str:
        return f"{self.word}({self.element})" if self.element else self.word


NUMBER, INTEGER, BOOLEAN, STRING, ANY = (ValueType(word) for word in _WORDS)
TIMESTAMP = ValueType("timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One name that expressions may read: `root` says where it comes from, `keys` how to get there."""

    root: str
    keys: tuple[str, ...]
    type: ValueType
    default: Any = None

    @property
    def path(self) -> str:
        """The name as it is written."""
        return ".".join((self.root, *self.keys))


def read_type(text: str) -> ValueType | None:
    """A type from its words, or None where they name none."""
    if text in _WORDS:
        return ValueType(text)
    found = _WRITTEN.fullmatch(text)
    element = read_type(found[2]) if found else None
    return ValueType(found[1], element) if found and element else None


def is_writable(name: str) -> bool:
    """Whether an expression can name this field."""
    return _NAME.fullmatch(name) is not None and name not in _UNWRITABLE


def variables_of(manifest: Manifest, signature: Signature | None = None) -> dict[str, Variable]:
    """What a package's manifest declares: {path: variable}, of its inputs, its answer and its profile."""
    inputs, outputs = (signature or manifest).inputs, (signature or manifest).outputs
    found = [_of_field("input", field) for field in inputs if field.content in ("value", "text")]
    found += _of_answer(manifest, outputs)
    for feature in manifest.features:
        kind = _of_datatype(feature.datatype)
        kind = ValueType("list", kind) if feature.shape else kind
        found.append(Variable(root="profile", keys=(feature.name,), type=kind))
    found.append(Variable(root="now", keys=(), type=TIMESTAMP))
    return {variable.path: variable for variable in found}


def _of_field(root: str, field: Field) -> Variable:
    kind = _of_datatype(field.datatype)
    for _ in field.shape:
        kind = ValueType("list", kind)
    return Variable(root=root, keys=(field.name,), type=kind, default=field.default)


def _of_answer(manifest: Manifest, outputs: Iterable[Field]) -> list[Variable]:
    by_name = {field.name: field for field in outputs}
    found: dict[str, Variable] = {}
    hidden: set[str] = set()
    for step in manifest.generate:
        if isinstance(step, Labels):
            hidden |= {step.scores, step.indices}
            own = by_name.get(step.output)
            if own is None or not own.on_request:
                labels = ValueType("list", ValueType("map", ANY))
                for name, kind in ((step.output, STRING), ("score", NUMBER), (f"{step.output}s", labels)):
                    found[name] = Variable(root="result", keys=(name,), type=kind)
        elif isinstance(step, Catalogue):
            hidden |= set(step.tensors)
            records = ValueType("list", ValueType("map", ANY))
            found[step.output] = Variable(root="result", keys=(step.output,), type=records)
        elif isinstance(step, Entities):
            hidden.add(step.scores)
            records = ValueType("list", ValueType("map", ANY))
            found[step.output] = Variable(root="result", keys=(step.output,), type=records)
    for field in by_name.values():
        if field.name not in hidden and field.name not in found and not field.on_request:
            found[field.name] = _of_field("result", field)
    for step in manifest.generate:
        if isinstance(step, Named):
            kind = _of_datatype(by_name[step.input].datatype) if step.input in by_name else NUMBER
            found[step.input] = Variable(root="result", keys=(step.input,), type=ValueType("map", kind))
            for name in step.names:
                found[f"{step.input}.{name}"] = Variable(root="result", keys=(step.input, name), type=kind)
    return list(found.values())


def _of_datatype(datatype: str) -> ValueType:
    if datatype == "BYTES":
        return STRING
    return BOOLEAN if datatype == "BOOL" else NUMBER if datatype.startswith("FP") else INTEGER


def converter(kind: ValueType) -> Converter:
    """The function that brings a fact to a type, or says MISSING."""
    if kind.element is None:
        return _CONVERTERS[kind.word]
    element = partial(_any, depth=1) if kind.element == ANY else converter(kind.element)  # null may be inside
    return _list_converter(element) if kind.word == "list" else _map_converter(element)


def _number(value: Any) -> Any:
    if type(value) is float:
        return value if -math.inf < value < math.inf else MISSING
    if isinstance(value, bool):
        return MISSING
    if isinstance(value, int | float):
        try:
            return _number(float(value))
        except OverflowError:
            return MISSING
    return _number(value.item()) if isinstance(value, np.generic) else MISSING


def _integer(value: Any) -> Any:
    if isinstance(value, bool):
        return MISSING
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
        return value if -(1 << 63) <= value < 1 << 63 else MISSING
    return _integer(value.item()) if isinstance(value, np.generic) else MISSING


def _boolean(value: Any) -> Any:
    if isinstance(value, np.bool_):
        return bool(value)
    return value if type(value) is bool else MISSING


def _string(value: Any) -> Any:
    """Text; bytes are none, since what JSON makes of a file is not what a rule read."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return MISSING
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # lone surrogates: no JSON holds them
            return MISSING
    return value if type(value) is str else str.__str__(value)


def _any(value: Any, depth: int = 0) -> Any:
    if value is None:
        return None if depth else MISSING
    if isinstance(value, np.ndarray | np.generic):
        return _any(value.tolist(), depth)
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int | float):
        return _integer(value) if isinstance(value, int) else _number(value)
    if depth >= MAX_DEPTH:
        return MISSING
    if isinstance(value, Mapping):
        return _map_converter(lambda element: _any(element, depth + 1))(value)
    return _list_converter(lambda element: _any(element, depth + 1))(value)


def _list_converter(element: Converter) -> Converter:
    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list | tuple) or len(value) > MAX_ELEMENTS:
            return MISSING
        converted = [element(inner) for inner in value]
        if any(inner is MISSING for inner in converted) or _text_size(converted) > MAX_TEXT:
            return MISSING
        return converted

    return convert


def _map_converter(element: Converter) -> Converter:
    def convert(value: Any) -> Any:
        # A file, as the audit log keeps it, is no map to a rule: it was none when the rule first saw it.
        if not isinstance(value, Mapping) or len(value) > MAX_ELEMENTS or value.keys() == _FILE:
            return MISSING
        converted = {_string(str(key)): element(inner) for key, inner in value.items()}
        if MISSING in converted or any(inner is MISSING for inner in converted.values()):
            return MISSING
        return MISSING if _text_size(converted.values()) > MAX_TEXT else converted

    return convert


def _text_size(values: Iterable[Any]) -> int:
    """Characters in all, so that a list of texts costs a rule no more than one text."""
    size = 0
    for value in values:
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, list):
            size += _text_size(value)
        elif isinstance(value, Mapping):
            size += _text_size(value.values())
    return size


_CONVERTERS: Mapping[str, Converter] = {
    "number": _number, "integer": _integer, "boolean": _boolean, "string": _string, "any": _any,
}  # fmt: skip
