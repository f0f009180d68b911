"""What a graph says of its sizes, held against what it holds: tensors of 2^40 elements, functions that unfold for ever.

A runtime believes such numbers when it asks for memory. Knows ONNX's datatypes, but no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

MAX_UNFOLDED_NODES = 1_000_000
MAX_SPARSE_ELEMENTS = 1 << 28
"""Of a sparse tensor, written out: the runtime does that."""

_MOST_ELEMENTS = 1 << 48
_STRING = 8
# Bits of an element by TensorProto.DataType; texts have none of their own.
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
_ELEMENTS_A_BYTE = 4
"""Of a list of numbers, at most: a varint has a byte, and two bits of it are an element of the smallest kind."""

Function: TypeAlias = tuple[str, str]
"""Domain and name; ("", "") is the graph."""


def elements_of(dims: list[int]) -> int | None:
    """How many elements a tensor has; None where that is no size."""
    count = 1
    for size in dims:
        if size >= 1 << 63 or len(dims) > 64:  # negative, as a varint
            return None
        count *= size
        if count > _MOST_ELEMENTS:
            return None if 0 not in dims else 0
    return count


def bytes_of(elements: int, datatype: int) -> int:
    """The least that so many elements take, in bytes."""
    return -(-elements * _BITS.get(datatype, 1) // 8)


def fits(elements: int, datatype: int, *, raw_bytes: int | None, listed_bytes: int, texts: int) -> bool:
    """Whether a tensor holds as many elements as its shape says: as raw bytes, as a list of numbers, or as texts."""
    if datatype == _STRING:
        return elements <= texts
    if raw_bytes is not None:
        return bytes_of(elements, datatype) <= raw_bytes
    return elements <= listed_bytes * _ELEMENTS_A_BYTE


class Unfolding:
    """Counts nodes and calls of functions, and how many nodes there are once every call is the function's nodes."""

    def __init__(self) -> None:
        self._calls: dict[Function, Counter[Function]] = {}
        self._nodes: Counter[Function] = Counter()

    def node(self, owner: Function) -> None:
        """A node of a function (or the graph)."""
        self._nodes[owner] += 1

    def call(self, owner: Function, called: Function) -> None:
        """A node of a function (or the graph) that calls one."""
        self._calls.setdefault(owner, Counter())[called] += 1

    def problem(self) -> str:
        """What is wrong with it; "" where nothing is."""
        if not self._calls:
            return ""
        unfolded: dict[Function, int] = {}
        # Depth first without recursion: a function is entered, then what it calls, then it is left and counted.
        entered: set[Function] = set()
        waiting: list[tuple[Function, bool]] = [(owner, False) for owner in self._calls]
        while waiting:
            function, leaving = waiting.pop()
            calls: Mapping[Function, int] = self._calls.get(function, {})
            if leaving:
                entered.discard(function)
                unfolded[function] = self._nodes[function] + sum(
                    times * unfolded[called] for called, times in calls.items()
                )
                if unfolded[function] > MAX_UNFOLDED_NODES:
                    return f"functions unfold to more than {MAX_UNFOLDED_NODES} nodes"
                continue
            if function in unfolded:
                continue
            if function in entered:
                return f'function "{function[1]}" calls itself'
            entered.add(function)
            waiting.append((function, True))
            for called in calls:
                if called in entered:
                    return f'function "{called[1]}" calls itself'
                waiting.append((called, False))
        return ""
