"""The forms that inference endpoints speak: one request in each of them, and each one's answer as plain values.

`v2` is the Open Inference Protocol (Triton, MLServer, KServe, Onward), `onward` Onward's plain route, `plain` JSON in
and JSON out, as TorchServe's `/predictions/{name}` and most servers of one's own do. Knows no sockets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from onward.errors import MalformedBody, UsageError, WrongShape

Form: TypeAlias = Literal["v2", "onward", "plain"]
Tensors: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]
"""The inputs that an endpoint's metadata names: {name: (datatype, shape with the batch)}."""

_V2 = re.compile(r"^/.*v2/models/[^/]+(/versions/[^/]+)?/infer$")
_ONWARD = re.compile(r"^/models/[^/]+(/versions/[^/]+)?$")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
# What Onward says beside an answer: of the request or the package, not of the input.
_OF_A_DECISION = ("outcome", "reasons", "arguments")
_NOTHING = "nothing there"


def form_of(path: str) -> Form:
    """The form that a path stands for."""
    bare = path.partition("?")[0]
    if _V2.match(bare):
        return "v2"
    return "onward" if _ONWARD.match(bare) else "plain"


# --- Requests ---


def as_items(body: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """A V2 body as plain JSON: one item, or a list of them where the batch has more. Raises `WrongShape`."""
    columns: dict[str, list[Any]] = {}
    rows = 0
    for tensor in body["inputs"]:
        shape, values = tuple(tensor["shape"]), list(flat(tensor.get("data", ())))
        if not shape or math.prod(shape) != len(values):
            raise WrongShape(where=tensor["name"][:80], expected=f"{math.prod(shape)} values",
                             found=f"{len(values)}")  # fmt: skip
        if columns and shape[0] != rows:
            raise WrongShape(where=tensor["name"][:80], expected=f"{rows} rows as before", found=f"{shape[0]}")
        rows = shape[0]
        name = tensor["name"]
        columns[names.get(name, name)] = nested(values, shape)
    items = [{name: column[row] for name, column in columns.items()} for row in range(rows)]
    return items[0] if rows == 1 else items


def renamed_items(value: Any, names: Mapping[str, str]) -> Any:
    """A plain body whose fields are called as the other endpoint calls them."""
    if isinstance(value, list):
        return [renamed_items(one, names) for one in value]
    return {names.get(name, name): one for name, one in value.items()} if isinstance(value, dict) else value


def renamed_v2(body: Mapping[str, Any], inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """A V2 body with the other endpoint's names, that asks for JSON."""
    made = dict(body)
    made["inputs"] = [one | {"name": inputs.get(one["name"], one["name"])} for one in body["inputs"]]
    parameters = {key: one for key, one in body.get("parameters", {}).items() if key != "binary_data_output"}
    made["parameters"] = parameters
    if not parameters:
        del made["parameters"]
    if "outputs" in body:
        made["outputs"] = [{"name": outputs.get(one["name"], one["name"])} for one in body["outputs"]]
    return made


def as_v2(value: Any, names: Mapping[str, str], known: Tensors, *, where: str) -> dict[str, Any]:
    """A plain item, or a list of them, as a V2 body; datatypes are the endpoint's. Raises `MalformedBody`."""
    items = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
    if not all(isinstance(one, dict) for one in items):
        if len(known) != 1:
            raise MalformedBody(
                where=where, expected="an object: the endpoint has several inputs", found=str(value)[:60]
            )
        items = [{next(iter(known)): one} for one in items]
    inputs = []
    for name in dict.fromkeys(name for item in items for name in item):
        theirs = names.get(name, name)
        if theirs not in known:
            expected = f"one of {', '.join(known) or 'none'} (--input {name}=THEIRS)"
            raise MalformedBody("the endpoint has no such input", where=where, expected=expected, found=theirs[:80])
        column = [item.get(name) for item in items]
        if any(one is None for one in column):
            raise MalformedBody(where=f"{where} {name}", expected="a value in every item", found=_NOTHING)
        datatype, shape = known[theirs]
        rank = len(shape)  # an item is a row: [3] for a tensor [-1, 3], and a number for one of [-1] or [-1, 1]
        values = [list(flat(one)) for one in column]
        ours = [len(items), *shape_of(column[0])]
        if len(ours) < rank:
            ours += [1] * (rank - len(ours))
        inputs.append({"name": theirs, "datatype": datatype, "shape": ours, "data": [v for row in values for v in row]})
    return {"inputs": inputs}


def tensors_of(metadata: Any) -> Tensors:
    """The inputs of V2 model metadata, Onward's fields among them. Raises `MalformedBody`."""
    try:
        found = {one["name"]: (one["datatype"], tuple(one["shape"])) for one in metadata["inputs"]}
        fields = metadata.get("fields", {}).get("inputs", ())
        return found | {one["name"]: (one["datatype"], (-1, *one["shape"])) for one in fields}
    except (KeyError, TypeError, AttributeError):
        raise MalformedBody(where="metadata", expected="V2 model metadata", found=str(metadata)[:80]) from None


# --- Answers ---


def answer_of(form: Form, body: bytes, *, by_value: bool) -> Any:
    """An answer without its envelope: {output: values} of V2, the answer of Onward, else the JSON (or text) itself.

    With `by_value`, lists of lists become one list, and a list of one value that value. Raises `MalformedBody`.
    """
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if form != "plain":
            raise MalformedBody(where="answer", expected="JSON", found=repr(body[:60])) from None
        told = body.decode("utf-8", "replace").strip()
    try:
        if form == "v2":
            told = _outputs(told)
        elif form == "onward":
            told = _told_by_onward(told)
        return _by_value(told) if by_value else told
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        expected = "V2 outputs with data" if form == "v2" else "an answer of Onward"
        raise MalformedBody(where="answer", expected=expected, found=str(told)[:80]) from None


def _outputs(told: Any) -> dict[str, Any]:
    return {str(one["name"]): nested(list(flat(one["data"])), tuple(one["shape"])) for one in told["outputs"]}


def _told_by_onward(told: Any) -> Any:
    if not isinstance(told, dict) or not ("answer" in told or "answers" in told):
        return told
    answer = told["answer"] if "answer" in told else told["answers"]
    decided = told.get("decision", told.get("decisions"))
    return answer if decided is None else {"answer": answer, "decision": _decided(decided)}


def _decided(decision: Any) -> Any:
    if isinstance(decision, list):
        return [_decided(one) for one in decision]
    return {name: decision[name] for name in _OF_A_DECISION if name in decision}


def _by_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _by_value(one) for name, one in value.items()}
    if isinstance(value, list) and not any(isinstance(one, dict) for one in value):
        values = list(flat(value))
        return values[0] if len(values) == 1 else values
    return [_by_value(one) for one in value] if isinstance(value, list) else value


# --- Values and places in them ---


def flat(value: Any) -> Iterator[Any]:
    """The values of nested lists, in order."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from flat(one)
    else:
        yield value


def nested(values: Sequence[Any], shape: Sequence[int]) -> Any:
    """Values as nested lists of a shape; as they are where their number does not fit it."""
    if len(shape) <= 1 or math.prod(shape) != len(values) or not values:
        return list(values) if shape else values[0]
    size = len(values) // shape[0]
    return [nested(values[at : at + size], shape[1:]) for at in range(0, len(values), size)]


def shape_of(value: Any) -> list[int]:
    """The shape of nested lists, by the first of each."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def steps_of(path: str, *, where: str) -> tuple[str | int, ...]:
    """`predictions[0].score` as the keys and indices to go by. Raises `UsageError`."""
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        at += path[at] == "." and at > 0
        found = _STEP.match(path, at)
        if found is None:
            raise UsageError("not a path into an answer", where=where, expected="name.name[0]", found=path[:80])
        steps.append(found[1] if found[2] is None else int(found[2]))
        at = found.end()
    return tuple(steps)


def at_path(value: Any, steps: Sequence[str | int]) -> Any:
    """What an answer holds at a path; a text that says so where it holds nothing there."""
    for step in steps:
        named = isinstance(step, str) and isinstance(value, dict) and step in value
        if not (named or (isinstance(step, int) and isinstance(value, list) and step < len(value))):
            return _NOTHING
        value = value[step]
    return value


def without(value: Any, steps: Sequence[str | int]) -> Any:
    """An answer without what it holds at a path."""
    if not steps or at_path(value, steps) is _NOTHING:
        return value
    first, rest = steps[0], steps[1:]
    if isinstance(value, dict):
        kept = {name: one for name, one in value.items() if name != first}
        return kept | {first: without(value[first], rest)} if rest else kept
    return [without(one, rest) if rest and at == first else one for at, one in enumerate(value) if rest or at != first]
