"""Whether an ONNX graph may be served, found by reading the file's wire format.

A served graph only infers: operators that train, operators from domains that need foreign code, and data that lies
outside the package are refused before a runtime sees the file. The walker reads Protocol Buffers' wire format with
bounds, so that serving needs no `onnx` package; tensors' contents are skipped, never read. It does not check
whether the graph is otherwise valid: the runtime does.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from onward.errors import RefusedGraph
from onward.package.sections import is_inner_path

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Domains whose operators the stock onnxruntime computes; `com.microsoft` holds its own, quantised ones among them."""
TRAINING_DOMAINS = frozenset({"ai.onnx.training", "ai.onnx.preview.training", "com.microsoft.training"})
TRAINING_OPERATORS = frozenset(
    {
        "Adagrad",
        "Adam",
        "AdamOptimizer",
        "AdamWOptimizer",
        "Gradient",
        "GraphCall",
        "InPlaceAccumulator",
        "InPlaceAccumulatorV2",
        "LambOptimizer",
        "Momentum",
        "SGDOptimizer",
        "SGDOptimizerV2",
        "YieldOp",
    }
)
MAX_DEPTH = 32
MAX_FIELDS = 50_000_000

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto, which are stable by Protocol Buffers' rules.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_FUNCTION_NODES, _FUNCTION_NAME, _FUNCTION_DOMAIN = 7, 1, 10
_GRAPH_NODES, _GRAPH_INITIALIZERS, _GRAPH_SPARSE_INITIALIZERS = 1, 5, 15
_NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTES, _NODE_DOMAIN = 3, 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
# A tree's numbers are fields of their own, a million of them: `floats` and `ints` in a row, each with its tag.
_NUMBERS = re.compile(rb"(?:\x3d.{4})++|(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])++", re.DOTALL)
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
_OPSET_DOMAIN = 1
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_Buffer: TypeAlias = "mmap.mmap | bytes"
_Span: TypeAlias = tuple[int, int]
_Fields: TypeAlias = Iterator[tuple[int, int, int, int]]


def check_graph(file: Path, folder: Path) -> tuple[str, ...]:
    """Refuse an ONNX file that trains, needs foreign operators, or reads data outside the package `folder`.

    Returns the files of its external data, as paths from the ONNX file's folder, sorted. Raises `RefusedGraph`
    naming the file, the node and what is wrong; also for a file that is not ONNX.
    """
    if not file.is_file() or file.is_symlink():
        raise RefusedGraph("no such file", where=str(file), expected="an ONNX file inside the package")
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise RefusedGraph("the file is empty", where=str(file), expected="an ONNX model")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            walker = _Walker(buffer, where=str(file), graph_folder=file.parent, package=folder)
            walker.model()
            return tuple(sorted(walker.external_files))


def domains(file: Path) -> frozenset[str]:
    """The domains of the operators that a graph imports; "" is that of the standard's own."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        walker = _Walker(buffer, where=str(file), graph_folder=file.parent, package=None)
        return frozenset(walker.imported())


def check_graph_bytes(data: bytes, where: str = "model") -> None:
    """Refuse a model held in memory, like `check_graph`; any external data is refused."""
    _Walker(data, where=where, graph_folder=None, package=None).model()


class _Walker:
    def __init__(self, buffer: _Buffer, *, where: str, graph_folder: Path | None, package: Path | None) -> None:
        self._buffer = buffer
        self._where = where
        self._graph_folder = graph_folder
        self._package = package
        self._left = MAX_FIELDS
        self._functions: set[tuple[str, str]] = set()
        self.external_files: set[str] = set()

    def model(self) -> None:
        whole = (0, len(self._buffer))
        graphs = functions = 0
        for number, wire, start, end in self._fields(whole):
            if wire != _LENGTH:
                continue
            if number == _MODEL_TRAINING:
                self._refuse("the model carries training information", "a model for inference only")
            elif number == _MODEL_FUNCTIONS:
                functions += 1
                self._functions.add(self._function_name((start, end)))
        for number, wire, start, end in self._fields(whole):
            if wire == _LENGTH and number == _MODEL_GRAPH:
                graphs += 1
                self._graph((start, end), 0)
            elif wire == _LENGTH and number == _MODEL_FUNCTIONS:
                self._function((start, end))
            elif wire == _LENGTH and number == _MODEL_OPSETS:
                self._opset((start, end))
        if graphs != 1:
            self._refuse(f"the file holds {graphs} graphs", "an ONNX model with one graph")

    def imported(self) -> Iterator[str]:
        for number, wire, start, end in self._fields((0, len(self._buffer))):
            if wire == _LENGTH and number == _MODEL_OPSETS:
                yield self._domain((start, end))

    def _domain(self, span: _Span) -> str:
        found = [
            self._text(start, end)
            for number, wire, start, end in self._fields(span)
            if number == _OPSET_DOMAIN and wire == _LENGTH
        ]
        return found[-1] if found else ""

    def _opset(self, span: _Span) -> None:
        domain = self._domain(span)
        if domain in TRAINING_DOMAINS:
            self._refuse(f'the model imports "{domain}"', "a model for inference only")

    def _function_name(self, span: _Span) -> tuple[str, str]:
        name = domain = ""
        for number, wire, start, end in self._fields(span):
            if wire == _LENGTH and number == _FUNCTION_NAME:
                name = self._text(start, end)
            elif wire == _LENGTH and number == _FUNCTION_DOMAIN:
                domain = self._text(start, end)
        return domain, name

    def _function(self, span: _Span) -> None:
        for number, wire, start, end in self._fields(span):
            if wire == _LENGTH and number == _FUNCTION_NODES:
                self._node((start, end), 0)

    def _graph(self, span: _Span, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._refuse("graphs are nested too deeply", f"at most {MAX_DEPTH} levels")
        for number, wire, start, end in self._fields(span):
            if wire != _LENGTH:
                continue
            if number == _GRAPH_NODES:
                self._node((start, end), depth)
            elif number == _GRAPH_INITIALIZERS:
                self._tensor((start, end))
            elif number == _GRAPH_SPARSE_INITIALIZERS:
                self._sparse((start, end))

    def _node(self, span: _Span, depth: int) -> None:
        name = operator = domain = ""
        attributes: list[_Span] = []
        for number, wire, start, end in self._fields(span):
            if wire != _LENGTH:
                continue
            if number == _NODE_OPERATOR:
                operator = self._text(start, end)
            elif number == _NODE_DOMAIN:
                domain = self._text(start, end)
            elif number == _NODE_NAME:
                name = self._text(start, end)
            elif number == _NODE_ATTRIBUTES:
                attributes.append((start, end))
        self._operator(operator, domain, name)
        for attribute in attributes:
            self._attribute(attribute, depth)

    def _operator(self, operator: str, domain: str, name: str) -> None:
        shown = f'operator "{operator}"' + (f' of "{domain}"' if domain else "") + (f' (node "{name}")' if name else "")
        if (domain, operator) in self._functions:
            return
        if domain in TRAINING_DOMAINS or operator in TRAINING_OPERATORS or operator.endswith("Grad"):
            self._refuse(f"{shown} trains", "a graph for inference only")
        if domain not in ALLOWED_DOMAINS:
            expected = (
                f"operators of {', '.join(sorted(domain or 'ai.onnx' for domain in ALLOWED_DOMAINS - {'ai.onnx'}))}"
            )
            self._refuse(f"{shown} needs foreign code", expected)

    def _attribute(self, span: _Span, depth: int) -> None:
        for number, wire, start, end in self._fields(span, passing=_NUMBERS):
            if wire != _LENGTH:
                continue
            if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                self._graph((start, end), depth + 1)
            elif number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                self._tensor((start, end))
            elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
                self._sparse((start, end))

    def _sparse(self, span: _Span) -> None:
        for number, wire, start, end in self._fields(span):
            if wire == _LENGTH and number in (_SPARSE_VALUES, _SPARSE_INDICES):
                self._tensor((start, end))

    def _tensor(self, span: _Span) -> None:
        name, external, is_external = "", [], False
        for number, wire, start, end in self._fields(span):
            if number == _TENSOR_NAME and wire == _LENGTH:
                name = self._text(start, end)
            elif number == _TENSOR_EXTERNAL and wire == _LENGTH:
                external.append(self._entry((start, end)))
            elif number == _TENSOR_LOCATION and wire == _VARINT and start != 0:
                is_external = True
        if is_external or external:
            for location in [value for key, value in external if key == "location"] or [""]:
                self._external(location, name)

    def _entry(self, span: _Span) -> tuple[str, str]:
        key = value = ""
        for number, wire, start, end in self._fields(span):
            if wire == _LENGTH and number == _ENTRY_KEY:
                key = self._text(start, end)
            elif wire == _LENGTH and number == _ENTRY_VALUE:
                value = self._text(start, end)
        return key, value

    def _external(self, location: str, name: str) -> None:
        shown = f'tensor "{name}" lies in "{location}"'
        if self._graph_folder is None or self._package is None:
            self._refuse(f"{shown}, outside the model", "tensors inside the model")
            return
        file = self._graph_folder / location
        inside = is_inner_path(location) and file.resolve().is_relative_to(self._package.resolve())
        if not inside or file.is_symlink() or not file.is_file():
            self._refuse(f"{shown}, which is not a file of the package", "external data inside the package")
        self.external_files.add(location)

    def _fields(self, span: _Span, *, passing: re.Pattern[bytes] | None = None) -> _Fields:
        """The fields of one message: number, wire type, and start and end of its bytes (varints: value, 0).

        What `passing` matches is passed over at once.
        """
        at, end = span
        while at < end:
            if passing is not None and (matched := passing.match(self._buffer, at, end)) is not None:
                at = matched.end()
                continue
            self._left -= 1
            if self._left < 0:
                self._refuse("the file has too many fields", f"at most {MAX_FIELDS}")
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, at = self._varint(at, end)
                yield number, wire, value, 0
                continue
            if wire == _LENGTH:
                size, at = self._varint(at, end)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                size = end  # group markers are not in onnx.proto: fails the bound below
            if number == 0 or at + size > end:
                self._refuse(f"not an ONNX model: unreadable at byte {at}", "an ONNX model")
            yield number, wire, at, at + size
            at += size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        buffer = self._buffer
        while at < end and shift < 64:
            byte = buffer[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        self._refuse(f"not an ONNX model: unreadable at byte {at}", "an ONNX model")
        return 0, end

    def _text(self, start: int, end: int) -> str:
        if end - start > 4096:
            self._refuse("a name is too long", "names of at most 4096 bytes")
        return self._buffer[start:end].decode("utf-8", errors="replace")

    def _refuse(self, message: str, expected: str) -> None:
        raise RefusedGraph(message, where=self._where, expected=expected)
