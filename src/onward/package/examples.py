"""Golden examples: inputs with the outputs expected of them, and how an answer differs from what was promised.

They are the warm-up, the parity test and the documentation of a package. Runs nothing itself.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import GoldenExampleFailed, PackageError
from onward.package.sections import is_inner_path, suggestion
from onward.types import Array, Result

EXAMPLES_FILE = "examples.jsonl"
TOLERANCE = 1e-5
"""How far a number may be off, times the expected number's size where that is above 1."""
MAX_LINE_BYTES = 64 << 20
MAX_VALUES = 4_000_000
"""Numbers, texts and lists of all examples together: in memory they are twenty times what they are on disk."""
MAX_FILE_BYTES = 256 << 20
"""Of the examples and the files that they name, together."""

_SEPARATORS = (b",", b"[", b"{", b":")
_KEYS = ("name", "input", "answer", "tensors", "tolerance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One golden example. `answer` is the part of the answer to be equal, `tensors` raw outputs of the one item."""

    name: str
    input: Mapping[str, Any]
    answer: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place where an answer is not what an example promises."""

    example: str
    output: str
    expected: str
    found: str
    difference: float = math.nan
    allowed: float = math.nan

    def __str__(self) -> str:
        text = f'example "{self.example}", {self.output}: expected {self.expected}, found {self.found}'
        if not math.isnan(self.difference):
            text += f" (differs by {self.difference:.3g}, allowed {self.allowed:.3g})"
        return text


def read_examples(folder: Path) -> tuple[Example, ...]:
    """The golden examples of a package folder, none where it has no `examples.jsonl`.

    Binary values are loaded. Raises `PackageError` naming file and line.
    """
    file = folder / EXAMPLES_FILE
    if not file.is_file():
        return ()
    examples: list[Example] = []
    budget = _Budget(bytes_left=MAX_FILE_BYTES, values_left=MAX_VALUES)
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 1), b""), start=1):
            where = f"{EXAMPLES_FILE}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise PackageError("the line is too long", where=where, expected=f"at most {MAX_LINE_BYTES} bytes")
            budget.spend(where, size=len(line), values=sum(map(line.count, _SEPARATORS)))
            if line.strip():
                examples.append(_example(line, number, where, folder, budget))
    return tuple(examples)


def write_examples(folder: Path, examples: Iterable[Example]) -> None:
    """Write golden examples; binary inputs go in as base64."""
    with (folder / EXAMPLES_FILE).open("w", encoding="utf-8", newline="\n") as file:
        for example in examples:
            line: dict[str, Any] = {"name": example.name, "input": _plain(example.input)}
            if example.answer:
                line["answer"] = _plain(example.answer)
            if example.tensors:
                line["tensors"] = _plain(example.tensors)
            if example.tolerance != TOLERANCE:
                line["tolerance"] = example.tolerance
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def differences(example: Example, answer: Mapping[str, Any], tensors: Mapping[str, Array]) -> list[Difference]:
    """Where an answer and raw outputs (rows first, one row) are not what the example promises."""
    found = list(_answer_differences(example, "answer", example.answer, answer))
    for name, expected in example.tensors.items():
        tensor = tensors.get(name)
        if tensor is None:
            has = ", ".join(tensors) or "nothing"
            found.append(Difference(example=example.name, output=f'tensor "{name}"', expected="a tensor", found=has))
        else:
            found.extend(_tensor_differences(example, f'tensor "{name}"', expected, tensor))
    return found


def check_example(example: Example, result: Result) -> None:
    """Raise `GoldenExampleFailed` where a result is not what the example promises."""
    wrong = differences(example, result.answer, result.tensors)
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise GoldenExampleFailed("; ".join(map(str, wrong[:5])) + more, where=result.package.name)


@dataclass(slots=True)
class _Budget:
    """What the examples of a package may still take."""

    bytes_left: int
    values_left: int

    def spend(self, where: str, *, size: int, values: int = 0) -> None:
        self.bytes_left -= size
        self.values_left -= values
        if self.bytes_left < 0 or self.values_left < 0:
            expected = f"at most {MAX_FILE_BYTES} bytes and {MAX_VALUES} values"
            raise PackageError("the examples are too many or too large", where=where, expected=expected)


def _example(line: bytes, number: int, where: str, folder: Path, budget: _Budget) -> Example:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"not valid JSON: {error}", where=where, expected="one JSON object a line") from None
    if not isinstance(values, dict):
        raise PackageError("not an object", where=where, expected='{"name": …, "input": {…}, "answer": {…}}')
    for key in values:
        if key not in _KEYS:
            found = f'"{key}"{suggestion(key, _KEYS)}'
            raise PackageError("unknown key", where=where, expected=f"one of {', '.join(_KEYS)}", found=found)
    for key in ("input", "answer", "tensors"):
        if not isinstance(values.get(key, {}), dict):
            raise PackageError(f"{key} is not an object", where=where, expected=f'"{key}": {{name: value}}')
    # "answer": {} is meant: that there is an answer at all, where its words are others each time.
    if "input" not in values or not (values.get("tensors") or "answer" in values):
        raise PackageError("incomplete", where=where, expected="input, and answer or tensors or both")
    tolerance = values.get("tolerance", TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise PackageError("tolerance is not a number from 0 up", where=where, found=repr(tolerance))
    return Example(
        name=str(values.get("name", f"line {number}")),
        input={name: _loaded(value, where, folder, budget) for name, value in values["input"].items()},
        answer=values.get("answer", {}),
        tensors=values.get("tensors", {}),
        tolerance=float(tolerance),
    )


def _loaded(value: Any, where: str, folder: Path, budget: _Budget) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {"file"} and isinstance(value["file"], str):
        file = folder / value["file"]
        if not is_inner_path(value["file"]) or file.is_symlink() or not file.is_file():
            raise PackageError("no such file in the package", where=where, found=f'"{value["file"]}"')
        if file.stat().st_size > MAX_LINE_BYTES:
            raise PackageError("the file is too large", where=where, expected=f"at most {MAX_LINE_BYTES} bytes")
        budget.spend(where, size=file.stat().st_size)
        return file.read_bytes()
    if value.keys() == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except binascii.Error as error:
            raise PackageError(f"not valid base64: {error}", where=where) from None
    expected = '{"file": "path"} or {"base64": "…"} for a binary value'
    raise PackageError("an object that is not a binary value", where=where, expected=expected)


def _plain(value: Any) -> Any:
    """A value as JSON knows it: arrays as nested lists, bytes as {"base64"} (or, in tensors, as text)."""
    if isinstance(value, Mapping):
        return {str(key): _plain(element) for key, element in value.items()}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray):
        return _texts(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(element) for element in value]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def _answer_differences(example: Example, path: str, expected: Any, found: Any) -> Iterator[Difference]:
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            yield _difference(example, path, expected, found)
            return
        for key, element in expected.items():
            if key in found:
                yield from _answer_differences(example, f"{path}.{key}", element, found[key])
            else:
                yield _difference(example, f"{path}.{key}", element, f"nothing (it has {', '.join(map(str, found))})")
    elif isinstance(found, np.ndarray) or (isinstance(expected, list) and _is_sequence(found)):
        found = found.tolist() if isinstance(found, np.ndarray) else found
        if not isinstance(expected, list) or not _is_sequence(found) or len(expected) != len(found):
            yield _difference(example, path, expected, found)
            return
        for index, pair in enumerate(zip(expected, found, strict=True)):
            yield from _answer_differences(example, f"{path}[{index}]", *pair)
    elif _is_number(expected) and _is_number(found):
        off, allowed = _distance(float(expected), float(found)), _allowed(example, float(expected))
        if not off <= allowed:
            yield _difference(example, path, expected, found, off, allowed)
    elif expected != (found.decode("utf-8", errors="replace") if isinstance(found, bytes) else found):
        yield _difference(example, path, expected, found)


def _tensor_differences(example: Example, path: str, expected: Any, tensor: Array) -> Iterator[Difference]:
    """At most one difference for a tensor: the worst element."""
    try:
        wanted = np.asarray(expected, dtype=None if tensor.dtype != object else object)
    except ValueError:
        yield _difference(example, path, "a regular nested list", "a ragged one")
        return
    if wanted.shape != tensor.shape and tensor.shape[:1] == (1,) and wanted.shape == tensor.shape[1:]:
        tensor = tensor[0]  # an item's outputs, written without the row dimension
    if wanted.shape != tensor.shape:
        yield _difference(example, path, f"shape {list(wanted.shape)}", f"shape {list(tensor.shape)}")
    elif tensor.dtype == object:
        yield from _answer_differences(example, path, wanted.tolist(), tensor.tolist())
    elif wanted.size and wanted.dtype.kind in "biuf":
        exact = wanted.astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinity less infinity, which counts as equal below
            off = np.asarray(np.abs(exact - tensor.astype(np.float64)))  # of scalars numpy makes no array
        off[(exact == tensor) | (np.isnan(exact) & np.isnan(tensor.astype(np.float64)))] = 0.0
        excess = np.nan_to_num(off, nan=np.inf) - example.tolerance * np.maximum(1.0, np.nan_to_num(np.abs(exact)))
        worst = tuple(int(index) for index in np.unravel_index(int(np.argmax(excess)), excess.shape))
        if excess[worst] > 0:
            place = path + "".join(f"[{index}]" for index in worst)
            allowed = _allowed(example, float(exact[worst]))
            yield _difference(example, place, exact[worst].item(), tensor[worst].item(), float(off[worst]), allowed)
    elif wanted.size:
        yield _difference(example, path, "numbers", f"{wanted.dtype}")


def _difference(
    example: Example, output: str, expected: Any, found: Any, difference: float = math.nan, allowed: float = math.nan
) -> Difference:
    return Difference(
        example=example.name,
        output=output,
        expected=_short(expected),
        found=_short(found),
        difference=difference,
        allowed=allowed,
    )


def _allowed(example: Example, expected: float) -> float:
    return example.tolerance * max(1.0, abs(expected)) if math.isfinite(expected) else example.tolerance


def _distance(expected: float, found: float) -> float:
    if expected == found or (math.isnan(expected) and math.isnan(found)):
        return 0.0
    return math.inf if math.isnan(expected) or math.isnan(found) else abs(expected - found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _short(value: Any) -> str:
    written = value if isinstance(value, str) else repr(value)
    return written if len(written) <= 120 else written[:119] + "…"
