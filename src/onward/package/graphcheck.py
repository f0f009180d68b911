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
from onward.package.graphsizes import MAX_SPARSE_ELEMENTS, Function, Unfolding, bytes_of, elements_of, fits
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
FOREIGN_OPERATORS = frozenset({"ATen", "EPContext", "PythonOp"})
"""Operators of onnxruntime's own domain that run other programs or read files that nobody checked."""
MAX_DEPTH = 32
MAX_FIELDS = 10_000_000

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto, which are stable by Protocol Buffers' rules.
_MODEL_GRAPH, _MODEL_OPSETS, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 20, 25
_FUNCTION_NODES, _FUNCTION_NAME, _FUNCTION_DOMAIN = 7, 1, 10
_GRAPH_NODES, _GRAPH_INITIALIZERS, _GRAPH_SPARSE_INITIALIZERS = 1, 5, 15
_NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTES, _NODE_DOMAIN = 3, 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
# A tree's numbers are fields of their own, a million of them, and so are the short words of its nodes' modes: `floats`,
# `ints` and `strings` in a row, each with its tag.
_SHORT_TEXTS = b"|".join(b"\\x%02x.{%d}" % (length, length) for length in range(32))
_PLAIN_VALUES = re.compile(
    rb"(?:\x3d.{4})++|(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])++|(?:\x4a(?:" + _SHORT_TEXTS + rb"))++", re.DOTALL
)
_SPARSE_VALUES, _SPARSE_INDICES, _SPARSE_DIMS = 1, 2, 3
_TENSOR_DIMS, _TENSOR_DATATYPE, _TENSOR_STRINGS, _TENSOR_RAW = 1, 2, 6, 9
_TENSOR_LISTS = frozenset({4, 5, 7, 10, 11})  # floats, int32s, int64s, doubles, uint64s
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
_OPSET_DOMAIN = 1
_MOST_DIMS = 64
_NUMBER = re.compile(r"[0-9]{1,18}")
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_Buffer: TypeAlias = "mmap.mmap | bytes"
_Span: TypeAlias = tuple[int, int]
_Fields: TypeAlias = Iterator[tuple[int, int, int, int]]


def check_graph(file: Path, folder: Path) -> tuple[str, ...]:
    """Refuse an ONNX file that trains, needs foreign operators, or reads data outside the package `folder`.

    Returns the files of its external data, as paths from the ONNX file's folder, sorted. Raises `RefusedGraph`
    naming the file, the node and what is wrong; also for a file that is not ONNX.
    """
    # By this name, onnxruntime reads another format, which nothing here has looked at.
    if file.suffix.lower() == ".ort":
        raise RefusedGraph("a file in onnxruntime's own format", where=str(file), expected="an ONNX model, NAME.onnx")
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
        self._functions: set[Function] = set()
        self._owner: Function = ("", "")
        self._unfolding = Unfolding()
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
        if problem := self._unfolding.problem():
            self._refuse(problem, "functions that end, and not in millions of nodes")

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
        self._owner = self._function_name(span)
        for number, wire, start, end in self._fields(span):
            if wire == _LENGTH and number == _FUNCTION_NODES:
                self._node((start, end), 0)
        self._owner = ("", "")

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
            self._unfolding.call(self._owner, (domain, operator))
            return
        self._unfolding.node(self._owner)
        if domain in TRAINING_DOMAINS or operator in TRAINING_OPERATORS or operator.endswith("Grad"):
            self._refuse(f"{shown} trains", "a graph for inference only")
        if domain not in ALLOWED_DOMAINS or operator in FOREIGN_OPERATORS:
            expected = (
                f"operators of {', '.join(sorted(domain or 'ai.onnx' for domain in ALLOWED_DOMAINS - {'ai.onnx'}))}"
            )
            self._refuse(f"{shown} needs foreign code", expected)

    def _attribute(self, span: _Span, depth: int) -> None:
        for number, wire, start, end in self._fields(span, passing=_PLAIN_VALUES):
            if wire != _LENGTH:
                continue
            if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                self._graph((start, end), depth + 1)
            elif number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                self._tensor((start, end))
            elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
                self._sparse((start, end))

    def _sparse(self, span: _Span) -> None:
        dims: list[int] = []
        for number, wire, start, end in self._fields(span):
            if wire == _LENGTH and number in (_SPARSE_VALUES, _SPARSE_INDICES):
                self._tensor((start, end))
            elif number == _SPARSE_DIMS:
                dims += self._integers(wire, start, end)
        elements = elements_of(dims)
        if elements is None or elements > MAX_SPARSE_ELEMENTS:
            shown = "x".join(map(str, dims[:8]))
            self._refuse(f"a sparse tensor of {shown} elements", f"at most {MAX_SPARSE_ELEMENTS}, written out")

    def _tensor(self, span: _Span) -> None:
        name, external, is_external, datatype = "", [], False, 0
        dims: list[int] = []
        raw_bytes: int | None = None
        listed_bytes = texts = 0
        for number, wire, start, end in self._fields(span):
            if number == _TENSOR_NAME and wire == _LENGTH:
                name = self._text(start, end)
            elif number == _TENSOR_DIMS:
                dims += self._integers(wire, start, end)
            elif number == _TENSOR_RAW and wire == _LENGTH:
                raw_bytes = end - start
            elif number in _TENSOR_LISTS:
                listed_bytes += 1 if wire == _VARINT else end - start
            elif number == _TENSOR_STRINGS and wire == _LENGTH:
                texts += 1
            elif number == _TENSOR_DATATYPE and wire == _VARINT:
                datatype = start
            elif number == _TENSOR_EXTERNAL and wire == _LENGTH:
                external.append(self._entry((start, end)))
            elif number == _TENSOR_LOCATION and wire == _VARINT and start != 0:
                is_external = True
        elements = elements_of(dims)
        if elements is None:
            self._refuse(f'tensor "{name}" has no possible shape', "sizes that memory could hold")
        elif is_external or external:
            self._external(external, name, bytes_of(elements, datatype))
        elif not fits(elements, datatype, raw_bytes=raw_bytes, listed_bytes=listed_bytes, texts=texts):
            self._refuse(f'tensor "{name}" says that it has {elements} elements, and holds fewer', "all of them")

    def _integers(self, wire: int, start: int, end: int) -> list[int]:
        """The numbers of a repeated integer field: one, or several packed."""
        if wire == _VARINT:
            return [start]
        numbers = []
        while wire == _LENGTH and start < end:
            value, start = self._varint(start, end)
            numbers.append(value)
            if len(numbers) > _MOST_DIMS:
                self._refuse(f"a tensor has more than {_MOST_DIMS} dimensions", "fewer")
        return numbers

    def _entry(self, span: _Span) -> tuple[str, str]:
        key = value = ""
        for number, wire, start, end in self._fields(span):
            if wire == _LENGTH and number == _ENTRY_KEY:
                key = self._text(start, end)
            elif wire == _LENGTH and number == _ENTRY_VALUE:
                value = self._text(start, end)
        return key, value

    def _external(self, entries: list[tuple[str, str]], name: str, needed_bytes: int) -> None:
        locations = [value for key, value in entries if key == "location"] or [""]
        for location in locations:
            shown = f'tensor "{name}" lies in "{location}"'
            if self._graph_folder is None or self._package is None:
                self._refuse(f"{shown}, outside the model", "tensors inside the model")
                return
            file = self._graph_folder / location
            inside = is_inner_path(location) and file.resolve().is_relative_to(self._package.resolve())
            if not inside or file.is_symlink() or not file.is_file():
                self._refuse(f"{shown}, which is not a file of the package", "external data inside the package")
            self._within(entries, shown, file.stat().st_size, needed_bytes)
            self.external_files.add(location)

    def _within(self, entries: list[tuple[str, str]], shown: str, size: int, needed_bytes: int) -> None:
        """Refuse a part of a file that is not there."""
        told = {key: value for key, value in entries if key in ("offset", "length")}
        if not all(_NUMBER.fullmatch(value) for value in told.values()):
            self._refuse(f"{shown} at an offset or of a length that is no number", "numbers of bytes")
            return
        offset = int(told.get("offset", "0"))
        length = int(told.get("length", str(max(size - offset, 0))))
        if offset + length > size or needed_bytes > length:
            self._refuse(f"{shown}, beyond its end", f"{needed_bytes} bytes of the file's {size}")

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
            if number == 0:
                self._refuse(f"not an ONNX model: unreadable at byte {at}", "an ONNX model")
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
            if at + size > end:
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
