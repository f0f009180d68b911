"""Reads a pickled pandas table without pandas. Run as a script in a child process of its own; no build imports it.

A pickle is a program. Here that program may name nothing but the classes on the list below, and each of them is a
small stand-in that only holds what it is given; any other name ends the process with an error before anything is
called. The process has little time, little memory and one file to write.

    python -I framepickle.py FILE.pkl.xz OUT.npz MEMORY_BYTES TIME_S

OUT becomes an .npz of one array a column, text as unicode, written without pickle. Exit 3 with one line on stderr:
refused.
"""

from __future__ import annotations

import io
import lzma
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REFUSED = 3
PICKLE_LIMIT_BYTES = 256 << 20
COLUMN_LIMIT = 64
DATATYPES = {"f8": "<f8", "i8": "<i8"}


class Refused(Exception):
    """The file asks for something that a table does not need."""


class Datatype:
    """Stands for `numpy.dtype`: little-endian numbers of eight bytes, or Python objects."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_flags: Any) -> None:
        if code not in (*DATATYPES, "O8"):
            raise Refused(f"the table has columns of type {code!r}")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[1] not in ("<", "|"):
            raise Refused("the table is not little-endian")


class Objects:
    """Stands for an array of Python objects: `numpy.core.multiarray._reconstruct`, then its state."""

    __slots__ = ("shape", "values")
    shape: tuple[int, ...]
    values: list[Any]

    def __init__(self, *_kind: Any) -> None:
        self.shape, self.values = (0,), []

    def __setstate__(self, state: Any) -> None:
        _version, shape, datatype, fortran, values = state
        if not isinstance(datatype, Datatype) or datatype.code != "O8" or fortran or not isinstance(values, list):
            raise Refused("an array of objects is described in an unknown way")
        if len(values) != int(np.prod(shape)):
            raise Refused("an array of objects has another size than it says")
        self.shape, self.values = tuple(shape), values

    def rows(self) -> list[list[Any]]:
        """The values, one list for each row of the array."""
        width = self.shape[-1]
        return [self.values[start : start + width] for start in range(0, len(self.values), width)]


class Block:
    """Stands for a block of columns of one type: [columns, rows], and where in the table they stand."""

    __slots__ = ("placement", "values")

    def __init__(self, values: Any, placement: Any, dimensions: Any) -> None:
        if dimensions != 2 or not isinstance(values, np.ndarray | Objects):
            raise Refused("a block is described in an unknown way")
        if isinstance(placement, slice):
            # Bounded by hand: a slice may name any number of columns.
            placement = range(*placement.indices(COLUMN_LIMIT))
        self.values, self.placement = values, [int(place) for place in placement]

    def __setstate__(self, state: Any) -> None:
        raise Refused("the pickle changes a block")


class Index:
    """Stands for an index: the names of the columns, or the numbers of the rows."""

    __slots__ = ("values",)

    def __init__(self, _kind: Any, state: Any) -> None:
        self.values = state.get("data") if isinstance(state, dict) else None

    def __setstate__(self, state: Any) -> None:
        raise Refused("the pickle changes an index")


class Blocks:
    """Stands for pandas' `BlockManager`."""

    __slots__ = ("axes", "blocks")

    def __init__(self, blocks: Any = (), axes: Any = ()) -> None:
        self.blocks, self.axes = blocks, axes

    def __setstate__(self, state: Any) -> None:
        raise Refused("the pickle changes a block manager")


class Frame:
    """Stands for `pandas.DataFrame`."""

    __slots__ = ("blocks",)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("_mgr"), Blocks):
            raise Refused("the table is described in an unknown way")
        self.blocks = state["_mgr"]


class Name:
    """Stands for a class that is only named: nothing that can be called or changed."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("the pickle changes a class")


def numbers(data: Any, datatype: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    """Stands for `numpy.core.numeric._frombuffer`."""
    if not isinstance(data, bytes | bytearray) or not isinstance(datatype, Datatype) or datatype.code == "O8":
        raise Refused("an array is described in an unknown way")
    if order not in ("C", "F"):
        raise Refused("an array is in an unknown order")
    array = np.frombuffer(data, DATATYPES[datatype.code])
    if isinstance(shape, int):
        shape = (shape,)
    return array.reshape(shape, order=order)


ALLOWED: dict[tuple[str, str], Any] = {
    ("pandas.core.frame", "DataFrame"): Frame,
    ("pandas.core.internals.managers", "BlockManager"): Blocks,
    ("pandas._libs.internals", "_unpickle_block"): Block,
    ("pandas.core.indexes.base", "_new_Index"): Index,
    ("pandas.core.indexes.base", "Index"): Name(),
    ("pandas.core.indexes.range", "RangeIndex"): Name(),
    ("numpy.core.numeric", "_frombuffer"): numbers,
    ("numpy.core.multiarray", "_reconstruct"): Objects,
    ("numpy", "ndarray"): Name(),
    ("numpy", "dtype"): Datatype,
    ("builtins", "slice"): slice,
}


class TableUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in ALLOWED and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name on the list."""
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise Refused(f"the pickle names {module}.{name}, which is not on the list") from None

    def persistent_load(self, pid: Any) -> Any:
        """No table refers to anything outside its file."""
        raise Refused(f"the pickle refers to {pid!r} outside of it")


def columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The columns of the table by name: numbers as they are, all else as text, what is missing as "" or NaN."""
    with lzma.open(path) as file:
        data = file.read(PICKLE_LIMIT_BYTES + 1)
    if len(data) > PICKLE_LIMIT_BYTES:
        raise Refused("the table is larger than any that is read here")
    frame = TableUnpickler(io.BytesIO(data)).load()
    if not isinstance(frame, Frame):
        raise Refused("the file holds no table")
    names = frame.blocks.axes[0].values
    if not isinstance(names, Objects):
        raise Refused("the columns have no names")
    found: dict[str, npt.NDArray[Any]] = {}
    for block in frame.blocks.blocks:
        rows = block.values.rows() if isinstance(block.values, Objects) else list(block.values)
        for place, row in zip(block.placement, rows, strict=False):
            text = isinstance(row, list)
            found[str(names.values[place])] = np.array([_text(value) for value in row]) if text else row
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and np.isnan(value):  # how pandas writes that nothing is known
        return ""
    raise Refused(f"a column of text holds a {type(value).__name__}")


def limit(memory_bytes: int, time_s: int) -> None:
    """Take away what the unpickling cannot need, where the platform has such limits."""
    try:
        import resource
    except ImportError:
        return
    for name, value in (("RLIMIT_AS", memory_bytes), ("RLIMIT_CPU", time_s), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 64)):
        kind = getattr(resource, name, None)
        if kind is not None:
            ceiling = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (value if ceiling < 0 else min(value, ceiling),) * 2)


def main(arguments: list[str]) -> int:
    """Read FILE under the limits and write OUT."""
    source, target = Path(arguments[0]), Path(arguments[1])
    limit(int(arguments[2]), int(arguments[3]))
    try:
        np.savez(target, allow_pickle=False, **columns(source))
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    except Exception as error:  # a malformed pickle may raise anything; all of it means the same to the parent
        sys.stderr.write(f"the file is malformed: {type(error).__name__}: {error}\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
